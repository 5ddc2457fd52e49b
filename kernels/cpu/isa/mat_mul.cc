// Matrix products over weight panels: register tiles of rows x panels, one accumulator per output
// element, sequential over k.
#include "kernels/cpu/isa/f32x16.h"
#include "kernels/cpu/isa/table.h"

namespace tessera::cpu::TESSERA_CPU_ISA {
namespace {

// Up to this many rows a panel is converted again for each register tile, which then leaves some
// registers to the conversion.
constexpr int64_t kDirectRows = 24;
constexpr int64_t kDirectTileRows = kTileRows * 2 / 3;

// How far ahead of its use a weight is fetched, in bytes of one panel.
constexpr int64_t kPrefetchBytes = 1024;

// Where a register tile goes; all its columns exist.
struct Target {
  float* out;
  int64_t stride;
  const float* bias;  // added at the end, or null
  bool accumulate;    // start from what out holds
};

template <int kRows, int kPanels>
inline void Begin(const Target& target, F32x16 (&sums)[kRows][kPanels]) {
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
    for (int p = 0; p < kPanels; ++p) {
      sums[r][p] =
          target.accumulate ? Load(target.out + r * target.stride + p * kPanel) : Set1(0.0F);
    }
  }
}

template <int kRows, int kPanels>
inline void End(const Target& target, F32x16 (&sums)[kRows][kPanels]) {
  if (target.bias != nullptr) {
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
      for (int p = 0; p < kPanels; ++p) {
        sums[r][p] = Add(sums[r][p], Load(target.bias + p * kPanel));
      }
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
    for (int p = 0; p < kPanels; ++p) {
      Store(target.out + r * target.stride + p * kPanel, sums[r][p]);
    }
  }
}

// sums[:][panel] += x[:][k] * w.
template <int kRows, int kPanels>
inline void Step(const float* const (&x)[kRows], int64_t k, int panel, F32x16 w,
                 F32x16 (&sums)[kRows][kPanels]) {
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) sums[r][panel] = Fma(Set1(x[r][k]), w, sums[r][panel]);
}

inline void Prefetch(const void* line) {
  __builtin_prefetch(static_cast<const char*>(line) + kPrefetchBytes);
}

// One register tile over float panels that lie `panel_size` elements apart.
template <int kRows, int kPanels>
void Tile(const float* const* rows, const float* panels, int64_t panel_size, int64_t depth,
          const Target& target) {
  const float* x[kRows];
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) x[r] = rows[r];
  F32x16 sums[kRows][kPanels];
  Begin(target, sums);
  for (int64_t k = 0; k < depth; ++k) {
#pragma GCC unroll 8
    for (int p = 0; p < kPanels; ++p) {
      const float* line = panels + p * panel_size + k * kPanel;
      Prefetch(line);
      Step(x, k, p, Load(line), sums);
    }
  }
  End(target, sums);
}

// The same over bfloat16 panels.
template <int kRows, int kPanels>
void Tile(const float* const* rows, const uint16_t* panels, int64_t panel_size, int64_t depth,
          const Target& target) {
  const float* x[kRows];
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) x[r] = rows[r];
  F32x16 sums[kRows][kPanels];
  Begin(target, sums);
  int64_t k = 0;
  for (; k + 1 < depth; k += 2) {
#pragma GCC unroll 8
    for (int p = 0; p < kPanels; ++p) {
      const uint16_t* line = panels + p * panel_size + k * kPanel;
      Prefetch(line);
      const Bf16Pairs pairs = LoadPairs(line);
      Step(x, k, p, First(pairs), sums);
      Step(x, k + 1, p, Second(pairs), sums);
    }
  }
  if (k < depth) {
#pragma GCC unroll 8
    for (int p = 0; p < kPanels; ++p) {
      Step(x, k, p, First(LoadPairs(panels + p * panel_size + k * kPanel)), sums);
    }
  }
  End(target, sums);
}

// A full-width stand-in for the last columns of an output whose width is no multiple of a panel.
struct LastPanel {
  float out[kTileRows * kPanel];
  float bias[kPanel];

  Target Begin(const Target& target, int64_t rows, int64_t columns) {
    for (int64_t r = 0; r < rows && target.accumulate; ++r) {
      Store(out + r * kPanel, LoadSome(target.out + r * target.stride, columns));
    }
    if (target.bias != nullptr) Store(bias, LoadSome(target.bias, columns));
    return {.out = out,
            .stride = kPanel,
            .bias = target.bias == nullptr ? nullptr : bias,
            .accumulate = target.accumulate};
  }
  void End(const Target& target, int64_t rows, int64_t columns) const {
    for (int64_t r = 0; r < rows; ++r) {
      StoreSome(target.out + r * target.stride, Load(out + r * kPanel), columns);
    }
  }
};

// `columns` columns of kRows rows: kPanels panels at a time, then one at a time.
template <int kRows, int kPanels, typename Element>
void Sweep(const float* const* rows, const Element* panels, int64_t panel_size, int64_t depth,
           int64_t columns, Target target) {
  const auto advance = [&](int64_t step) {
    panels += step * panel_size;
    target.out += step * kPanel;
    if (target.bias != nullptr) target.bias += step * kPanel;
    columns -= step * kPanel;
  };
  for (; columns >= kPanels * kPanel; advance(kPanels)) {
    Tile<kRows, kPanels>(rows, panels, panel_size, depth, target);
  }
  for (; columns >= kPanel; advance(1)) {
    Tile<kRows, 1>(rows, panels, panel_size, depth, target);
  }
  if (columns > 0) {
    LastPanel last;
    Tile<kRows, 1>(rows, panels, panel_size, depth, last.Begin(target, kRows, columns));
    last.End(target, kRows, columns);
  }
}

// Panels side by side so that every tile has enough independent sums to hide the latency of an FMA.
constexpr int PanelsOf(int rows) {
  const int panels = kAccumulators / rows;
  return panels < 1 ? 1 : panels > 4 ? 4 : panels;
}

template <typename Element>
void SweepRows(int64_t count, const float* const* rows, const Element* panels, int64_t panel_size,
               int64_t depth, int64_t columns, const Target& target) {
  switch (count) {
#define TESSERA_ROWS(n)                                                        \
  case n:                                                                      \
    if constexpr ((n) <= kTileRows) {                                          \
      Sweep<n, PanelsOf(n)>(rows, panels, panel_size, depth, columns, target); \
    }                                                                          \
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

// Memory that is fetched while something else is computed, a share per register tile.
struct Ahead {
  const char* begin = nullptr;
  int64_t bytes = 0;

  void Fetch(int64_t tiles_left) {
    const int64_t share = (bytes / tiles_left + 63) / 64 * 64;
    for (int64_t i = 0; i < share && i < bytes; i += 64) __builtin_prefetch(begin + i, 0, 2);
    begin += share;
    bytes -= share;
  }
};

// All rows in register tiles of nearly equal height.
template <typename Element>
void SweepTiles(int64_t count, const float* const* rows, const Element* panels, int64_t panel_size,
                int64_t depth, int64_t columns, const Target& target, Ahead ahead) {
  constexpr int64_t kMostRows = sizeof(Element) == 2 ? kDirectTileRows : kTileRows;
  int64_t tiles = (count + kMostRows - 1) / kMostRows;
  for (int64_t begin = 0; begin < count; --tiles) {
    if (ahead.bytes > 0) ahead.Fetch(tiles);
    const int64_t height = (count - begin + tiles - 1) / tiles;
    Target tile = target;
    tile.out += begin * target.stride;
    SweepRows(height, rows + begin, panels, panel_size, depth, columns, tile);
    begin += height;
  }
}

template <typename Element>
void SweepDirect(const MatMul& job, int64_t depth, bool accumulate) {
  const int64_t panel_size = PanelSize(job.k, job.bf16);
  // With several tiles of rows, a panel is used by all of them while it is in the cache.
  const int64_t step = job.rows > kDirectTileRows ? kPanel : job.columns;
  for (int64_t column = 0; column < job.columns; column += step) {
    SweepTiles(job.rows, job.x,
               static_cast<const Element*>(job.panels) + column / kPanel * panel_size, panel_size,
               depth, Least(step, job.columns - column),
               {.out = job.out + column,
                .stride = job.out_stride,
                .bias = job.bias == nullptr ? nullptr : job.bias + column,
                .accumulate = accumulate},
               {});
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
  for (int64_t i = 0; i < count; i += kPanel) Store(to + i, LoadSome(from + i, count - i));
}

// The columns of a job over k in [begin, begin + depth), for rows copied side by side.
void MultiplyBlock(const MatMul& job, const float* const* x, int64_t begin, int64_t depth,
                   float* widened) {
  const int64_t panel_size = PanelSize(job.k, job.bf16);
  const int64_t element = job.bf16 ? 2 : 4;
  constexpr int64_t kStep = kTilePanels * kPanel;
  const bool adds_bias = job.bias != nullptr && begin + depth == job.k;
  const char* panels = static_cast<const char*>(job.panels) + begin * kPanel * element;
  for (int64_t column = 0; column < job.columns; column += kStep) {
    const int64_t columns = Least(kStep, job.columns - column);
    const Target target{.out = job.out + column,
                        .stride = job.out_stride,
                        .bias = adds_bias ? job.bias + column : nullptr,
                        .accumulate = begin > 0};
    const char* next = panels + kTilePanels * panel_size * element;
    const Ahead ahead{next, column + kStep < job.columns ? depth * kPanel * element : 0};
    if (job.bf16) {
      for (int64_t p = 0; p * kPanel < columns; ++p) {
        Widen(reinterpret_cast<const uint16_t*>(panels) + p * panel_size, depth,
              widened + p * kDepthBlock * kPanel);
      }
      SweepTiles(job.rows, x, widened, kDepthBlock * kPanel, depth, columns, target, ahead);
    } else {
      SweepTiles(job.rows, x, reinterpret_cast<const float*>(panels), panel_size, depth, columns,
                 target, ahead);
    }
    panels = next;
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
  if (job.bf16) {
    SweepDirect<uint16_t>(job, depth, accumulate);
  } else {
    SweepDirect<float>(job, depth, accumulate);
  }
}

void MultiplyMatrix(const MatMul& job) {
  if (job.rows <= kDirectRows) {
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
