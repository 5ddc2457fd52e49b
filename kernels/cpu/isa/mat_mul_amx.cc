// Products of bfloat16 rows by bfloat16 panels with AMX. A weight panel of 32 k is an operand as it
// lies; an output element is summed over k in ascending tiles, in the order of the instruction.
#include "kernels/cpu/isa/f32x16.h"
#include "kernels/cpu/isa/table.h"

namespace tessera::cpu::TESSERA_CPU_ISA {
namespace {

constexpr int64_t kTileBytes = 1024;
constexpr int64_t kRowBytes = 64;        // of a tile
constexpr int64_t kFewRowsAhead = 4096;  // bytes between fetching a weight and using it

// Tile registers 0 to 3 hold sums, 4 and 5 activations (5: a second row of tiles or a panel), 6 and
// 7 panels.
struct alignas(64) TileConfig {
  uint8_t palette = 1;
  uint8_t start_row = 0;
  uint8_t reserved[14] = {};
  uint16_t row_bytes[16] = {};
  uint8_t rows[16] = {};
};

// Also makes the compiler write everything to memory that tiles are loaded from: the intrinsics
// declare less than they read.
inline void MemoryBarrier() { asm volatile("" ::: "memory"); }

// `rows`: height of tiles of sums and of activations, where one row of tiles is multiplied alone.
void Configure(int64_t rows) {
  TileConfig config;
  for (int i = 0; i < 8; ++i) {
    config.row_bytes[i] = kRowBytes;
    config.rows[i] = static_cast<uint8_t>(i < 5 ? rows : kTileHeight);
  }
  MemoryBarrier();
  _tile_loadconfig(&config);
}

// Up to two panels side by side, padded to full tiles of k.
struct Panels {
  const char* first;
  int64_t stride;  // bytes between panels
  int64_t whole;   // tiles of k that lie in the panel
  bool has_tail;
  alignas(64) char tail[2][kTileBytes];  // the last k, zeros beyond
};

void FindPanels(const RoundedMatMul& job, int64_t panel, int64_t count, Panels& panels) {
  panels.stride = PanelSize(job.k, /*bf16=*/true) * 2;
  panels.first = static_cast<const char*>(job.panels) + panel * panels.stride;
  panels.whole = job.k / kTileDepth;
  panels.has_tail = job.k % kTileDepth != 0;
  if (!panels.has_tail) return;
  const int64_t begin = panels.whole * kTileBytes;
  for (int64_t p = 0; p < count; ++p) {
    __builtin_memset(panels.tail[p], 0, kTileBytes);
    __builtin_memcpy(panels.tail[p], panels.first + p * panels.stride + begin,
                     panels.stride - begin);
  }
}

inline void FetchTile(const char* tile) {
#pragma GCC unroll 16
  for (int64_t i = 0; i < kTileBytes; i += 64) __builtin_prefetch(tile + kFewRowsAhead + i);
}

// Memory that is fetched while tiles are multiplied.
struct Ahead {
  const char* next;
  const char* end;
  int64_t lines;  // per step

  void Fetch() {
    for (int64_t i = 0; i < lines && next < end; ++i, next += 64) __builtin_prefetch(next, 0, 2);
  }
};

// Where a block of tiles goes.
struct Target {
  float* out;
  int64_t stride;
  int64_t rows;
  int64_t columns;
  const float* bias;
  bool accumulate;
  bool direct;  // no bias, and as high as its tiles
};

// sums[rows][panels]: a stand-in for a target that is not made of whole tiles or wants a bias.
struct alignas(64) Sums {
  float values[2 * kTileHeight][2 * kPanel];

  void Load(const Target& target) {
    for (int64_t r = 0; r < target.rows; ++r) {
      for (int64_t c = 0; c < target.columns; c += kPanel) {
        Store(values[r] + c, LoadSome(target.out + r * target.stride + c, target.columns - c));
      }
    }
  }
  void Write(const Target& target) const {
    for (int64_t r = 0; r < target.rows; ++r) {
      for (int64_t c = 0; c < target.columns; c += kPanel) {
        const int64_t left = target.columns - c;
        F32x16 sum = tessera::cpu::TESSERA_CPU_ISA::Load(values[r] + c);
        if (target.bias != nullptr) sum = Add(sum, LoadSome(target.bias + c, left));
        StoreSome(target.out + r * target.stride + c, sum, left);
      }
    }
  }
};

template <int kRowTiles, int kPanels>
inline void BeginSums(const float* from, int64_t stride, bool accumulate) {
  const int64_t bytes = stride * 4;
  const float* below = from + kTileHeight * stride;
  if (accumulate) {
    _tile_loadd(0, from, bytes);
    if constexpr (kPanels > 1) _tile_loadd(1, from + kPanel, bytes);
    if constexpr (kRowTiles > 1) _tile_loadd(2, below, bytes);
    if constexpr (kRowTiles > 1 && kPanels > 1) _tile_loadd(3, below + kPanel, bytes);
  } else {
    _tile_zero(0);
    if constexpr (kPanels > 1) _tile_zero(1);
    if constexpr (kRowTiles > 1) _tile_zero(2);
    if constexpr (kRowTiles > 1 && kPanels > 1) _tile_zero(3);
  }
}

template <int kRowTiles, int kPanels>
inline void EndSums(float* to, int64_t stride) {
  const int64_t bytes = stride * 4;
  float* below = to + kTileHeight * stride;
  _tile_stored(0, to, bytes);
  if constexpr (kPanels > 1) _tile_stored(1, to + kPanel, bytes);
  if constexpr (kRowTiles > 1) _tile_stored(2, below, bytes);
  if constexpr (kRowTiles > 1 && kPanels > 1) _tile_stored(3, below + kPanel, bytes);
}

template <int kRowTiles, int kPanels>
inline void Step(const char* x, int64_t x_stride, const char* first, const char* second) {
  _tile_loadd(4, x, kRowBytes);
  _tile_loadd(6, first, kRowBytes);
  _tile_dpbf16ps(0, 4, 6);
  if constexpr (kPanels > 1) {
    _tile_loadd(7, second, kRowBytes);
    _tile_dpbf16ps(1, 4, 7);
  }
  if constexpr (kRowTiles > 1) {
    _tile_loadd(5, x + x_stride, kRowBytes);
    _tile_dpbf16ps(2, 5, 6);
    if constexpr (kPanels > 1) _tile_dpbf16ps(3, 5, 7);
  }
}

// One block of kRowTiles x kPanels tiles.
template <int kRowTiles, int kPanels>
void Block(const char* x, int64_t x_stride, const Panels& panels, const Target& target,
           Ahead& ahead) {
  Sums sums;
  const bool direct = target.direct && target.columns == kPanels * kPanel;
  float* memory = direct ? target.out : sums.values[0];
  const int64_t stride = direct ? target.stride : 2 * kPanel;
  if (target.accumulate && !direct) {
    sums.Load(target);
    MemoryBarrier();
  }
  BeginSums<kRowTiles, kPanels>(memory, stride, target.accumulate);
  const char* first = panels.first;
  const char* second = first + panels.stride;
  for (int64_t i = 0; i < panels.whole; ++i) {
    if constexpr (kRowTiles == 1) {
      FetchTile(first);
      if constexpr (kPanels > 1) FetchTile(second);
    } else {
      ahead.Fetch();
    }
    Step<kRowTiles, kPanels>(x, x_stride, first, second);
    x += kTileBytes;
    first += kTileBytes;
    second += kTileBytes;
  }
  if (panels.has_tail) Step<kRowTiles, kPanels>(x, x_stride, panels.tail[0], panels.tail[1]);
  EndSums<kRowTiles, kPanels>(memory, stride);
  if (!direct) sums.Write(target);
}

template <int kRowTiles>
void BlockOf(int64_t count, const char* x, int64_t x_stride, const Panels& panels,
             const Target& target, Ahead& ahead) {
  if (count > 1) {
    Block<kRowTiles, 2>(x, x_stride, panels, target, ahead);
  } else {
    Block<kRowTiles, 1>(x, x_stride, panels, target, ahead);
  }
}

// All rows of one or two panels, two tiles of rows at a time.
void SweepRows(const RoundedMatMul& job, int64_t column, int64_t height, const Panels& panels,
               Ahead ahead) {
  const int64_t columns = Least(2 * kPanel, job.columns - column);
  const int64_t count = (columns + kPanel - 1) / kPanel;
  const int64_t x_stride = TilesOf(job.k) * kTileBytes;
  const char* x = reinterpret_cast<const char*>(job.x);
  for (int64_t row = 0; row < job.rows; row += 2 * kTileHeight) {
    const int64_t rows = Least(2 * kTileHeight, job.rows - row);
    const int64_t tiles = rows > kTileHeight ? 2 : 1;
    const Target target{.out = job.out + row * job.out_stride + column,
                        .stride = job.out_stride,
                        .rows = rows,
                        .columns = columns,
                        .bias = job.bias == nullptr ? nullptr : job.bias + column,
                        .accumulate = job.accumulate,
                        .direct = job.bias == nullptr && rows == tiles * height};
    if (tiles == 2) {
      BlockOf<2>(count, x, x_stride, panels, target, ahead);
    } else {
      BlockOf<1>(count, x, x_stride, panels, target, ahead);
    }
    x += 2 * x_stride;
  }
}

}  // namespace

void MultiplyRounded(const RoundedMatMul& job) {
  const int64_t height = Least(kTileHeight, job.rows);
  Configure(height);
  const int64_t row_pairs = (job.rows + 2 * kTileHeight - 1) / (2 * kTileHeight);
  Panels panels;
  for (int64_t column = 0; column < job.columns; column += 2 * kPanel) {
    const int64_t count = column + kPanel < job.columns ? 2 : 1;
    FindPanels(job, column / kPanel, count, panels);
    MemoryBarrier();
    const char* next = panels.first + 2 * panels.stride;
    const Ahead ahead{.next = next,
                      .end = next + 2 * panels.stride,
                      .lines = (2 * kTileHeight + row_pairs - 1) / row_pairs};
    SweepRows(job, column, height, panels, ahead);
  }
  _tile_release();
}

}  // namespace tessera::cpu::TESSERA_CPU_ISA
