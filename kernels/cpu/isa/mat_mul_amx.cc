// Products of bfloat16 rows by bfloat16 panels with AMX. A weight panel of 32 k is an operand as it
// lies; an output element is summed over k in ascending tiles, in the order of the instruction.
#include "kernels/cpu/isa/f32x16.h"
#include "kernels/cpu/isa/table.h"

namespace tessera::cpu::TESSERA_CPU_ISA {
namespace {

constexpr int64_t kTileBytes = 1024;
constexpr int64_t kRowBytes = 64;        // of a tile
constexpr int64_t kFewRows = 4;          // up to here one panel at a time is fastest
constexpr int64_t kFewRowsAhead = 1024;  // bytes between fetching a weight and using it

// Tile registers 0 to 3 hold the sums of 2 x 2 tiles (rows x panels), 4 and 5 activations, 6 and 7
// panels.
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

constexpr int kMostPanels = 2;

// Panels side by side, padded to full tiles of k.
struct Panels {
  const char* first;
  int64_t stride;  // bytes between panels
  int64_t whole;   // tiles of k that lie in the panel
  bool has_tail;
  alignas(64) char tail[kMostPanels][kTileBytes];  // the last k, zeros beyond
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
  for (int64_t i = 0; i < kTileBytes; i += 64) __builtin_prefetch(tile + i, 0, 2);
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
  bool direct;  // no bias, and made of whole tiles
};

// A stand-in for a target that is not made of whole tiles or wants a bias.
struct alignas(64) Sums {
  static constexpr int64_t kStride = kMostPanels * kPanel;
  float values[2 * kTileHeight][kStride];

  void Fill(const Target& target) {
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
        F32x16 sum = Load(values[r] + c);
        if (target.bias != nullptr) sum = Add(sum, LoadSome(target.bias + c, left));
        StoreSome(target.out + r * target.stride + c, sum, left);
      }
    }
  }
};

// kPanels panels by one row of tiles. With so few rows the weights set the pace: each line is
// fetched a little ahead of its use, and with very few rows one panel after the other.
template <int kPanels>
struct OneRow {
  static void Clear() {
    _tile_zero(0);
    if constexpr (kPanels > 1) _tile_zero(1);
  }
  static void Load(const float* from, int64_t bytes) {
    _tile_loadd(0, from, bytes);
    if constexpr (kPanels > 1) _tile_loadd(1, from + kPanel, bytes);
  }
  static void Store(float* to, int64_t bytes) {
    _tile_stored(0, to, bytes);
    if constexpr (kPanels > 1) _tile_stored(1, to + kPanel, bytes);
  }
  static void Step(const char* x, int64_t /*x_stride*/, const char* w, int64_t w_stride,
                   Ahead& /*ahead*/) {
    for (int64_t p = 0; p < kPanels; ++p) FetchTile(w + p * w_stride + kFewRowsAhead);
    _tile_loadd(4, x, kRowBytes);
    _tile_loadd(6, w, kRowBytes);
    _tile_dpbf16ps(0, 4, 6);
    if constexpr (kPanels > 1) {
      _tile_loadd(7, w + w_stride, kRowBytes);
      _tile_dpbf16ps(1, 4, 7);
    }
  }
};

// Register tiles of kPanels panels by two rows of tiles.
template <int kPanels>
struct TwoRows {
  static void Clear() {
    _tile_zero(0);
    _tile_zero(2);
    if constexpr (kPanels > 1) _tile_zero(1);
    if constexpr (kPanels > 1) _tile_zero(3);
  }
  static void Load(const float* from, int64_t bytes) {
    const float* below = from + kTileHeight * bytes / 4;
    _tile_loadd(0, from, bytes);
    _tile_loadd(2, below, bytes);
    if constexpr (kPanels > 1) _tile_loadd(1, from + kPanel, bytes);
    if constexpr (kPanels > 1) _tile_loadd(3, below + kPanel, bytes);
  }
  static void Store(float* to, int64_t bytes) {
    float* below = to + kTileHeight * bytes / 4;
    _tile_stored(0, to, bytes);
    _tile_stored(2, below, bytes);
    if constexpr (kPanels > 1) _tile_stored(1, to + kPanel, bytes);
    if constexpr (kPanels > 1) _tile_stored(3, below + kPanel, bytes);
  }
  static void Step(const char* x, int64_t x_stride, const char* w, int64_t w_stride, Ahead& ahead) {
    if constexpr (kPanels == 1) {
      FetchTile(w + kFewRowsAhead);
    } else {
      ahead.Fetch();
    }
    _tile_loadd(4, x, kRowBytes);
    _tile_loadd(6, w, kRowBytes);
    _tile_dpbf16ps(0, 4, 6);
    _tile_loadd(5, x + x_stride, kRowBytes);
    _tile_dpbf16ps(2, 5, 6);
    if constexpr (kPanels > 1) {
      _tile_loadd(7, w + w_stride, kRowBytes);
      _tile_dpbf16ps(1, 4, 7);
      _tile_dpbf16ps(3, 5, 7);
    }
  }
};

// One block of register tiles over all k.
template <typename Registers>
void Block(const char* x, int64_t x_stride, const Panels& panels, const Target& target,
           Ahead& ahead) {
  Sums sums;
  float* memory = target.direct ? target.out : sums.values[0];
  const int64_t bytes = (target.direct ? target.stride : Sums::kStride) * 4;
  if (target.accumulate) {
    if (!target.direct) sums.Fill(target);
    MemoryBarrier();
    Registers::Load(memory, bytes);
  } else {
    Registers::Clear();
  }
  const char* w = panels.first;
  for (int64_t i = 0; i < panels.whole; ++i) {
    Registers::Step(x, x_stride, w, panels.stride, ahead);
    x += kTileBytes;
    w += kTileBytes;
  }
  if (panels.has_tail) Registers::Step(x, x_stride, panels.tail[0], kTileBytes, ahead);
  Registers::Store(memory, bytes);
  if (!target.direct) sums.Write(target);
}

void BlockOf(int64_t rows_of_tiles, int64_t count, const char* x, int64_t x_stride,
             const Panels& panels, const Target& target, Ahead& ahead) {
  if (rows_of_tiles == 1 && count == 1) {
    Block<OneRow<1>>(x, x_stride, panels, target, ahead);
  } else if (rows_of_tiles == 1) {
    Block<OneRow<2>>(x, x_stride, panels, target, ahead);
  } else if (count == 1) {
    Block<TwoRows<1>>(x, x_stride, panels, target, ahead);
  } else {
    Block<TwoRows<2>>(x, x_stride, panels, target, ahead);
  }
}

// All rows of `count` panels, two tiles of rows at a time.
void SweepRows(const RoundedMatMul& job, int64_t column, int64_t count, const Panels& panels,
               Ahead ahead) {
  const int64_t columns = Least(count * kPanel, job.columns - column);
  const int64_t height = Least(kTileHeight, job.rows);
  const int64_t x_stride = TilesOf(job.k) * kTileBytes;
  const char* x = reinterpret_cast<const char*>(job.x);
  for (int64_t row = 0; row < job.rows; row += 2 * kTileHeight) {
    const int64_t rows = Least(2 * kTileHeight, job.rows - row);
    const int64_t tiles = rows > kTileHeight ? 2 : 1;
    const bool whole = rows == tiles * height && columns == count * kPanel;
    const Target target{.out = job.out + row * job.out_stride + column,
                        .stride = job.out_stride,
                        .rows = rows,
                        .columns = columns,
                        .bias = job.bias == nullptr ? nullptr : job.bias + column,
                        .accumulate = job.accumulate,
                        .direct = whole && job.bias == nullptr};
    BlockOf(tiles, count, x, x_stride, panels, target, ahead);
    x += 2 * x_stride;
  }
}

}  // namespace

void MultiplyRounded(const RoundedMatMul& job) {
  Configure(Least(kTileHeight, job.rows));
  const int64_t row_pairs = (job.rows + 2 * kTileHeight - 1) / (2 * kTileHeight);
  const int64_t most = job.rows > kFewRows ? kMostPanels : 1;
  Panels panels;
  for (int64_t column = 0; column < job.columns; column += most * kPanel) {
    const int64_t count = Least(most, (job.columns - column + kPanel - 1) / kPanel);
    FindPanels(job, column / kPanel, count, panels);
    MemoryBarrier();
    const char* next = panels.first + most * panels.stride;
    const Ahead ahead{.next = next,
                      .end = next + most * panels.stride,
                      .lines = (most * kTileHeight + row_pairs - 1) / row_pairs};
    SweepRows(job, column, count, panels, ahead);
  }
  _tile_release();
}

}  // namespace tessera::cpu::TESSERA_CPU_ISA
