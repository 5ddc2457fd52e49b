// Products of bfloat16 rows by bfloat16 panels with AVX512-BF16: one accumulator per output
// element, a pair of k per instruction, ascending.
#include "kernels/cpu/isa/f32x16.h"
#include "kernels/cpu/isa/table.h"

namespace tessera::cpu::TESSERA_CPU_ISA {
namespace {

constexpr int kMostRows = 8;  // of a register tile; divides kTileHeight
constexpr int64_t kPairs = kTileDepth / 2;
constexpr int64_t kPrefetchBytes = 1024;

// Part of a job: some rows of one row tile, from some panel on.
struct Block {
  const uint16_t* x;
  const uint16_t* panels;
  float* out;
  const float* bias;  // or null
};

inline __m512bh AsPairs(__m512i bits) {
  __m512bh pairs;
  __builtin_memcpy(&pairs, &bits, sizeof(pairs));
  return pairs;
}

inline __m512bh BroadcastPair(const uint16_t* x) {
  int32_t pair = 0;
  __builtin_memcpy(&pair, x, sizeof(pair));
  return AsPairs(_mm512_set1_epi32(pair));
}

// sums += `pairs` pairs of k, of one depth of a tile.
template <int kRows, int kPanels>
inline void MultiplyPairs(const uint16_t* x, const uint16_t* panels, int64_t panel_size,
                          int64_t pairs, __m512 (&sums)[kRows][kPanels]) {
  for (int64_t j = 0; j < pairs; ++j) {
    __m512bh w[kPanels];
#pragma GCC unroll 8
    for (int p = 0; p < kPanels; ++p) {
      const uint16_t* line = panels + p * panel_size + j * 2 * kPanel;
      __builtin_prefetch(reinterpret_cast<const char*>(line) + kPrefetchBytes);
      w[p] = AsPairs(_mm512_loadu_si512(line));
    }
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      const __m512bh a = BroadcastPair(x + r * kTileDepth + j * 2);
#pragma GCC unroll 8
      for (int p = 0; p < kPanels; ++p) sums[r][p] = _mm512_dpbf16_ps(sums[r][p], a, w[p]);
    }
  }
}

template <int kRows, int kPanels>
void Tile(const RoundedMatMul& job, const Block& block, int64_t columns) {
  const int64_t panel_size = PanelSize(job.k, /*bf16=*/true);
  __m512 sums[kRows][kPanels];
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
    for (int p = 0; p < kPanels; ++p) {
      sums[r][p] =
          job.accumulate
              ? LoadSome(block.out + r * job.out_stride + p * kPanel, columns - p * kPanel).v
              : _mm512_setzero_ps();
    }
  }
  const uint16_t* x = block.x;
  const uint16_t* panels = block.panels;
  const int64_t depths = job.k / kTileDepth;
  for (int64_t depth = 0; depth < depths; ++depth) {
    MultiplyPairs(x, panels, panel_size, kPairs, sums);
    x += kTileElements;
    panels += kTileDepth * kPanel;
  }
  MultiplyPairs(x, panels, panel_size, (job.k % kTileDepth + 1) / 2, sums);
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
    for (int p = 0; p < kPanels; ++p) {
      const int64_t left = columns - p * kPanel;
      F32x16 sum{sums[r][p]};
      if (block.bias != nullptr) sum = Add(sum, LoadSome(block.bias + p * kPanel, left));
      StoreSome(block.out + r * job.out_stride + p * kPanel, sum, left);
    }
  }
}

template <int kRows, int kPanels>
void Sweep(const RoundedMatMul& job, Block block, int64_t columns) {
  const int64_t panel_size = PanelSize(job.k, /*bf16=*/true);
  for (; columns > 0;) {
    const int64_t panels = columns > (kPanels - 1) * kPanel ? kPanels : 1;
    if (panels == kPanels) {
      Tile<kRows, kPanels>(job, block, columns);
    } else {
      Tile<kRows, 1>(job, block, columns);
    }
    block.panels += panels * panel_size;
    block.out += panels * kPanel;
    if (block.bias != nullptr) block.bias += panels * kPanel;
    columns -= panels * kPanel;
  }
}

void SweepRows(int64_t rows, const RoundedMatMul& job, const Block& block, int64_t columns) {
  switch (rows) {
#define TESSERA_ROWS(n, panels)            \
  case n:                                  \
    Sweep<n, panels>(job, block, columns); \
    break;
    TESSERA_ROWS(1, 4)
    TESSERA_ROWS(2, 4)
    TESSERA_ROWS(3, 4)
    TESSERA_ROWS(4, 4)
    TESSERA_ROWS(5, 2)
    TESSERA_ROWS(6, 2)
    TESSERA_ROWS(7, 2)
    TESSERA_ROWS(8, 2)
#undef TESSERA_ROWS
    default:
      break;
  }
}

}  // namespace

void MultiplyRounded(const RoundedMatMul& job) {
  const int64_t panel_size = PanelSize(job.k, /*bf16=*/true);
  // With several tiles of rows, panels are used by all of them while they are in the cache.
  const int64_t step = job.rows > kMostRows ? 2 * kPanel : job.columns;
  for (int64_t column = 0; column < job.columns; column += step) {
    for (int64_t row = 0; row < job.rows;) {
      const int64_t rows = Least(kMostRows - row % kMostRows, job.rows - row);
      SweepRows(rows, job,
                {.x = job.x + RoundedRow(row, job.k),
                 .panels = static_cast<const uint16_t*>(job.panels) + column / kPanel * panel_size,
                 .out = job.out + row * job.out_stride + column,
                 .bias = job.bias == nullptr ? nullptr : job.bias + column},
                Least(step, job.columns - column));
      row += rows;
    }
  }
}

}  // namespace tessera::cpu::TESSERA_CPU_ISA
