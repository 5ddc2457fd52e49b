// Matrix products over weight panels: register tiles of rows x panels, one accumulator per output
// element, sequential over k.
#include "kernels/cpu/isa/f32x16.h"
#include "kernels/cpu/isa/table.h"

namespace tessera::cpu::TESSERA_CPU_ISA {
namespace {

// How far ahead of its use a weight is fetched, in bytes of one panel.
constexpr int64_t kPrefetchBytes = 1024;

// Where a register tile goes.
struct Target {
  float* out;
  int64_t stride;
  int64_t columns;    // valid from the first panel on
  const float* bias;  // added at the end, or null
  bool accumulate;    // start from what out holds
};

template <int kRows, int kPanels>
inline void Begin(const Target& target, F32x16 (&sums)[kRows][kPanels]) {
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
    for (int p = 0; p < kPanels; ++p) {
      sums[r][p] = target.accumulate ? LoadSome(target.out + r * target.stride + p * kPanel,
                                                target.columns - p * kPanel)
                                     : Set1(0.0F);
    }
  }
}

template <int kRows, int kPanels>
inline void End(const Target& target, F32x16 (&sums)[kRows][kPanels]) {
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
    for (int p = 0; p < kPanels; ++p) {
      const int64_t columns = target.columns - p * kPanel;
      F32x16 sum = sums[r][p];
      if (target.bias != nullptr) sum = Add(sum, LoadSome(target.bias + p * kPanel, columns));
      StoreSome(target.out + r * target.stride + p * kPanel, sum, columns);
    }
  }
}

template <int kRows, int kPanels>
inline void Step(const float* const (&x)[kRows], int64_t k, const F32x16 (&w)[kPanels],
                 F32x16 (&sums)[kRows][kPanels]) {
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
    const F32x16 value = Set1(x[r][k]);
#pragma GCC unroll 8
    for (int p = 0; p < kPanels; ++p) sums[r][p] = Fma(value, w[p], sums[r][p]);
  }
}

// One register tile over float panels that lie `panel_size` elements apart.
template <int kRows, int kPanels>
void Tile(const float* const* rows, const float* panels, int64_t panel_size, int64_t depth,
          const Target& target) {
  const float* x[kRows];
  for (int r = 0; r < kRows; ++r) x[r] = rows[r];
  F32x16 sums[kRows][kPanels];
  Begin(target, sums);
  for (int64_t k = 0; k < depth; ++k) {
    F32x16 w[kPanels];
#pragma GCC unroll 8
    for (int p = 0; p < kPanels; ++p) {
      const float* line = panels + p * panel_size + k * kPanel;
      __builtin_prefetch(reinterpret_cast<const char*>(line) + kPrefetchBytes);
      w[p] = Load(line);
    }
    Step(x, k, w, sums);
  }
  End(target, sums);
}

// The same over bfloat16 panels.
template <int kRows, int kPanels>
void Tile(const float* const* rows, const uint16_t* panels, int64_t panel_size, int64_t depth,
          const Target& target) {
  const float* x[kRows];
  for (int r = 0; r < kRows; ++r) x[r] = rows[r];
  F32x16 sums[kRows][kPanels];
  Begin(target, sums);
  int64_t k = 0;
  for (; k + 1 < depth; k += 2) {
    F32x16 first[kPanels];
    F32x16 second[kPanels];
#pragma GCC unroll 8
    for (int p = 0; p < kPanels; ++p) {
      const uint16_t* line = panels + p * panel_size + k * kPanel;
      __builtin_prefetch(reinterpret_cast<const char*>(line) + kPrefetchBytes);
      const Bf16Pairs pairs = LoadPairs(line);
      first[p] = First(pairs);
      second[p] = Second(pairs);
    }
    Step(x, k, first, sums);
    Step(x, k + 1, second, sums);
  }
  if (k < depth) {
    F32x16 first[kPanels];
#pragma GCC unroll 8
    for (int p = 0; p < kPanels; ++p) {
      first[p] = First(LoadPairs(panels + p * panel_size + k * kPanel));
    }
    Step(x, k, first, sums);
  }
  End(target, sums);
}

// All columns of `rows` <= kTileRows rows; kPanels at a time, then one at a time.
template <int kRows, int kPanels, typename Element>
void Sweep(const float* const* rows, const Element* panels, int64_t panel_size, int64_t depth,
           Target target) {
  while (target.columns > 0) {
    const bool wide = target.columns > (kPanels - 1) * kPanel;
    const int64_t step = wide ? kPanels : 1;
    if (wide) {
      Tile<kRows, kPanels>(rows, panels, panel_size, depth, target);
    } else {
      Tile<kRows, 1>(rows, panels, panel_size, depth, target);
    }
    panels += step * panel_size;
    target.out += step * kPanel;
    target.columns -= step * kPanel;
    if (target.bias != nullptr) target.bias += step * kPanel;
  }
}

// Panels side by side so that every tile has enough independent sums to hide the latency of an FMA.
constexpr int PanelsOf(int rows) {
  const int panels = kAccumulators / rows;
  return panels < 1 ? 1 : panels > 4 ? 4 : panels;
}

template <typename Element>
void SweepRows(int64_t count, const float* const* rows, const Element* panels, int64_t panel_size,
               int64_t depth, const Target& target) {
  switch (count) {
#define TESSERA_ROWS(n)                                               \
  case n:                                                             \
    if constexpr ((n) <= kTileRows) {                                 \
      Sweep<n, PanelsOf(n)>(rows, panels, panel_size, depth, target); \
    }                                                                 \
    break;
    TESSERA_ROWS(1)
    TESSERA_ROWS(2)
    TESSERA_ROWS(3)
    TESSERA_ROWS(4)
    TESSERA_ROWS(5)
    TESSERA_ROWS(6)
    TESSERA_ROWS(7)
    TESSERA_ROWS(8)
    TESSERA_ROWS(9)
    TESSERA_ROWS(10)
    TESSERA_ROWS(11)
    TESSERA_ROWS(12)
#undef TESSERA_ROWS
    default:
      break;
  }
}

// Rows [begin, end) in register tiles of nearly equal height.
template <typename Element>
void SweepTiles(int64_t count, const float* const* rows, const Element* panels, int64_t panel_size,
                int64_t depth, const Target& target) {
  int64_t tiles = (count + kTileRows - 1) / kTileRows;
  for (int64_t begin = 0; begin < count; --tiles) {
    const int64_t height = (count - begin + tiles - 1) / tiles;
    Target tile = target;
    tile.out += begin * target.stride;
    SweepRows(height, rows + begin, panels, panel_size, depth, tile);
    begin += height;
  }
}

void Widen(const uint16_t* pairs, int64_t depth, float* out) {
  for (int64_t k = 0; k + 1 < depth; k += 2) {
    const Bf16Pairs line = LoadPairs(pairs + k * kPanel);
    Store(out + k * kPanel, First(line));
    Store(out + (k + 1) * kPanel, Second(line));
  }
  if (depth % 2 != 0) {
    Store(out + (depth - 1) * kPanel, First(LoadPairs(pairs + (depth - 1) * kPanel)));
  }
}

void CopyRow(const float* from, int64_t count, float* to) {
  for (int64_t i = 0; i < count; i += kPanel)
    StoreSome(to + i, LoadSome(from + i, count - i), count - i);
}

// The columns of a job over k in [begin, begin + depth), for rows copied side by side.
void MultiplyBlock(const MatMul& job, const float* const* x, int64_t begin, int64_t depth,
                   float* widened) {
  const int64_t panel_size = PanelSize(job.k, job.bf16);
  constexpr int64_t kStep = kTilePanels * kPanel;
  for (int64_t column = 0; column < job.columns; column += kStep) {
    const Target target{
        .out = job.out + column,
        .stride = job.out_stride,
        .columns = Least(kStep, job.columns - column),
        .bias = begin + depth < job.k || job.bias == nullptr ? nullptr : job.bias + column,
        .accumulate = begin > 0};
    const int64_t offset = column / kPanel * panel_size + begin * kPanel;
    if (!job.bf16) {
      SweepTiles(job.rows, x, static_cast<const float*>(job.panels) + offset, panel_size, depth,
                 target);
      continue;
    }
    const auto* pairs = static_cast<const uint16_t*>(job.panels) + offset;
    for (int64_t p = 0; p * kPanel < target.columns; ++p) {
      Widen(pairs + p * panel_size, depth, widened + p * kDepthBlock * kPanel);
    }
    SweepTiles(job.rows, x, widened, kDepthBlock * kPanel, depth, target);
  }
}

// For many rows: a block of k at a time, rows copied together and panels converted once.
void MultiplyBlocked(const MatMul& job) {
  const float* x[kRowBlock];
  for (int64_t r = 0; r < job.rows; ++r) x[r] = job.scratch + r * kScratchRow;
  float* widened = job.scratch + kRowBlock * kScratchRow;
  for (int64_t begin = 0; begin < job.k; begin += kDepthBlock) {
    const int64_t depth = Least(kDepthBlock, job.k - begin);
    for (int64_t r = 0; r < job.rows; ++r) {
      CopyRow(job.x[r] + begin, depth, job.scratch + r * kScratchRow);
    }
    MultiplyBlock(job, x, begin, depth, widened);
  }
}

}  // namespace

void MultiplyDirect(const MatMul& job, int64_t depth, bool accumulate) {
  const int64_t panel_size = PanelSize(job.k, job.bf16);
  const Target target{.out = job.out,
                      .stride = job.out_stride,
                      .columns = job.columns,
                      .bias = job.bias,
                      .accumulate = accumulate};
  if (job.bf16) {
    SweepTiles(job.rows, job.x, static_cast<const uint16_t*>(job.panels), panel_size, depth,
               target);
  } else {
    SweepTiles(job.rows, job.x, static_cast<const float*>(job.panels), panel_size, depth, target);
  }
}

void MultiplyMatrix(const MatMul& job) {
  if (job.rows <= kTileRows) {
    MultiplyDirect(job, job.k, /*accumulate=*/false);
  } else {
    MultiplyBlocked(job);
  }
}

#if defined(__AVX2__)
namespace {

// Eight rows of eight 32-bit words.
inline void TransposeEight(const void* const* rows, int64_t first_word, uint32_t* out) {
  __m256i r[8];
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) {
    r[i] = _mm256_loadu_si256(
        reinterpret_cast<const __m256i*>(static_cast<const char*>(rows[i]) + first_word * 4));
  }
  __m256i pairs[8];
#pragma GCC unroll 4
  for (int i = 0; i < 8; i += 2) {
    pairs[i] = _mm256_unpacklo_epi32(r[i], r[i + 1]);
    pairs[i + 1] = _mm256_unpackhi_epi32(r[i], r[i + 1]);
  }
  __m256i quads[8];  // word w of rows 0..3 (4..7) in each half: quads[w] (quads[w + 4])
#pragma GCC unroll 2
  for (int i = 0; i < 8; i += 4) {
    quads[i] = _mm256_unpacklo_epi64(pairs[i], pairs[i + 2]);
    quads[i + 1] = _mm256_unpackhi_epi64(pairs[i], pairs[i + 2]);
    quads[i + 2] = _mm256_unpacklo_epi64(pairs[i + 1], pairs[i + 3]);
    quads[i + 3] = _mm256_unpackhi_epi64(pairs[i + 1], pairs[i + 3]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + i * 16),
                        _mm256_permute2x128_si256(quads[i], quads[i + 4], 0x20));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + (i + 4) * 16),
                        _mm256_permute2x128_si256(quads[i], quads[i + 4], 0x31));
  }
}

}  // namespace

void Transpose(const void* const* rows, void* destination) {
  auto* out = static_cast<uint32_t*>(destination);
  TransposeEight(rows, 0, out);
  TransposeEight(rows + 8, 0, out + 8);
  TransposeEight(rows, 8, out + 8 * 16);
  TransposeEight(rows + 8, 8, out + 8 * 16 + 8);
}
#else
void Transpose(const void* const* rows, void* destination) {
  auto* out = static_cast<uint32_t*>(destination);
  for (int i = 0; i < 16; ++i) {
    uint32_t row[16];
    __builtin_memcpy(row, rows[i], sizeof(row));
    for (int j = 0; j < 16; ++j) out[j * 16 + i] = row[j];
  }
}
#endif

}  // namespace tessera::cpu::TESSERA_CPU_ISA
