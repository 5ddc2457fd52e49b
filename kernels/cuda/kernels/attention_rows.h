// Which rows an attention kernel's block has, and how queries, keys and values get to shared
// memory. Groups of kThreads threads work alike, with kTileRows rows each; a block has one or more.
#ifndef TESSERA_KERNELS_CUDA_KERNELS_ATTENTION_ROWS_H_
#define TESSERA_KERNELS_CUDA_KERNELS_ATTENTION_ROWS_H_

#include "kernels/cuda/kernels/attention.h"
#include "kernels/cuda/kernels/attention_tile.h"
#include "kernels/cuda/kernels/tiles.h"
#include "kernels/cuda/simt/ptx.h"
#include "kernels/cuda/simt/simt.h"

namespace tessera::cuda::attention {

inline constexpr float kLog2E = 1.4426950408889634F;

SIMT_DEVICE int GroupThread() { return static_cast<int>(threadIdx.x) % kThreads; }

// How a launch cuts the problem; the same for all of its blocks.
struct Cut {
  int32_t spans = 1;    // blocks per tile: one per span, if more than one
  bool wide_q = false;  // 16-byte boundaries
  bool wide_kv = false;
  bool wide_pairs = false;  // pairs of results lie at boundaries of a pair
};

// The block's rows, or those of one of its groups of threads, and the positions that any of the
// block's rows sees.
struct TileRows {
  int sequence = -1;  // -1: none
  int token0 = 0;     // of the sequence
  int first = 0;      // the tile's first row, counted from the sequence's first
  int count = 0;
  int position0 = 0;  // of the sequence's first token
  int begin = 0;      // visible positions
  int end = 0;        // 0: a padded sequence
};
// Positions [begin, end) that all of the rows see.
struct SeenByAll {
  int begin = 0;
  int end = 0;
};

// Of tiles of `tile_rows` rows. All lanes of a warp call it together.
SIMT_DEVICE TileRows FindRows(const AttentionProblem& problem, int tile_rows) {
  const int group = problem.q_heads / problem.kv_heads;
  const GroupTile tile = FindGroupTile(problem.cu_seqlens, problem.sequences, group, tile_rows,
                                       static_cast<int>(blockIdx.x));
  TileRows rows;
  rows.sequence = tile.group;
  if (tile.group < 0) return rows;
  rows.token0 = tile.begin;
  rows.first = tile.index * tile_rows;
  const int left = (tile.end - tile.begin) * group - rows.first;
  rows.count = left < tile_rows ? left : tile_rows;
  const int context = problem.context_lens[tile.group];
  if (context == 0) return rows;
  rows.position0 = context - (tile.end - tile.begin);
  rows.end = rows.position0 + (rows.first + rows.count - 1) / group + 1;
  const int hidden = rows.position0 + rows.first / group - problem.window + 1;
  rows.begin = problem.window > 0 && hidden > 0 ? hidden : 0;
  return rows;
}

// The kTileRows rows of the tile from its row `first` on, as far as there are any.
SIMT_DEVICE TileRows PartOf(const TileRows& rows, int first) {
  TileRows part = rows;
  part.first += first;
  const int left = rows.count - first;
  part.count = left < 0 ? 0 : left < kTileRows ? left : kTileRows;
  return part;
}

SIMT_DEVICE SeenByAll FindSeenByAll(const AttentionProblem& problem, const TileRows& rows) {
  const int group = problem.q_heads / problem.kv_heads;
  const int lowest = rows.position0 + rows.first / group;
  const int highest = rows.position0 + (rows.first + rows.count - 1) / group;
  return {.begin = problem.window > 0 ? highest - problem.window + 1 : 0, .end = lowest + 1};
}

// Row `row` of the tile.
struct QueryRow {
  int64_t token;
  int head;
  int position;
};
SIMT_DEVICE QueryRow FindRow(const AttentionProblem& problem, const TileRows& rows, int row) {
  const int group = problem.q_heads / problem.kv_heads;
  const int token = (rows.first + row) / group;
  const int head = (rows.first + row) % group;
  return {rows.token0 + token, static_cast<int>(blockIdx.y) * group + head, rows.position0 + token};
}

// Of the lane's two rows; -1: no such row.
SIMT_DEVICE void FindPositions(const AttentionProblem& problem, const TileRows& rows,
                               int (&positions)[2]) {
  const int warp = GroupThread() / simt::kWarpSize;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int row = warp * kWarpRows + half * 8 + GroupThread() % simt::kWarpSize / 4;
    positions[half] = row < rows.count ? FindRow(problem, rows, row).position : -1;
  }
}

// The tiles of keys that the block goes through, and how many spans of positions its rows see. A
// block beyond them has no tiles.
struct KeyTiles {
  int begin = 0;
  int end = 0;
  int spans = 0;
};
template <typename Shape>
SIMT_DEVICE KeyTiles FindKeyTiles(const TileRows& rows, const Cut& cut) {
  const int first_span = rows.begin / kSpan;
  KeyTiles tiles{.begin = rows.begin / Shape::kKeys,
                 .end = simt::CeilDiv(rows.end, Shape::kKeys),
                 .spans = simt::CeilDiv(rows.end, kSpan) - first_span};
  if (cut.spans == 1) return tiles;
  const int block = static_cast<int>(blockIdx.z);
  if (block >= tiles.spans) return {};
  const int span_begin = (first_span + block) * Shape::kTilesPerSpan;
  const int span_end = span_begin + Shape::kTilesPerSpan;
  if (tiles.begin < span_begin) tiles.begin = span_begin;
  if (tiles.end > span_end) tiles.end = span_end;
  return tiles;
}

SIMT_DEVICE void Convert(Bf16& to, Bf16 from) { to = from; }
SIMT_DEVICE void Convert(Bf16& to, float from) { to = simt::ToBf16(from); }
SIMT_DEVICE void Convert(float& to, Bf16 from) { to = simt::ToFloat(from); }
SIMT_DEVICE void Convert(float& to, float from) { to = from; }

// Copies the tile's queries, rounded to the type of the keys, with zeros beyond rows and head_dim.
template <typename Shape, typename Act>
SIMT_DEVICE void LoadQueries(const AttentionProblem& problem, const TileRows& rows, bool wide,
                             typename Shape::Element* shared) {
  using T = typename Shape::Element;
  for (int i = GroupThread(); i < kTileRows * Shape::kChunks; i += kThreads) {
    const int row = i / Shape::kChunks;
    const int d = i % Shape::kChunks * Shape::kPerChunk;
    T* to = &shared[Shape::ElementAt(row, i % Shape::kChunks)];
    if (row >= rows.count || d >= problem.head_dim) {
      simt::Store16(to, uint4{0, 0, 0, 0});
      continue;
    }
    const QueryRow query = FindRow(problem, rows, row);
    const Act* from = static_cast<const Act*>(problem.q) + query.token * problem.q_stride +
                      query.head * problem.head_dim + d;
    if (sizeof(T) == sizeof(Act) && wide) {
      simt::Store16(to, simt::Load16(from));
      continue;
    }
#pragma unroll
    for (int e = 0; e < Shape::kPerChunk; ++e) {
      to[e] = T{};
      if (d + e < problem.head_dim) Convert(to[e], from[e]);
    }
  }
}

// Copies tile `tile` of keys and values: positions from tile * kKeys on. Those that no row sees may
// hold anything, NaN included, and have no page: zeros. A stage has the members k and v. More
// copies at a time take more registers.
template <typename Shape, typename Stage>
SIMT_DEVICE void LoadTile(const AttentionProblem& problem, const TileRows& rows, int tile,
                          bool wide, Stage& stage) {
  using T = typename Shape::Element;
  const int32_t* table = problem.block_tables + rows.sequence * problem.table_stride;
#pragma unroll Shape::kCopiesAtATime
  for (int i = 0; i < Shape::kKeys * Shape::kChunks / kThreads; ++i) {
    const int row = (i * kThreads + GroupThread()) / Shape::kChunks;
    const int chunk = GroupThread() % Shape::kChunks;
    const int d = chunk * Shape::kPerChunk;
    const int position = tile * Shape::kKeys + row;
    const bool exists = position >= rows.begin && position < rows.end && d < problem.head_dim;
    int64_t from = 0;
    if (exists) {
      const int page = position / problem.block_size;
      const int offset = position % problem.block_size;
      const int64_t block = table[page];
      from = block * problem.block_stride + d +
             (static_cast<int64_t>(blockIdx.y) * problem.block_size + offset) * problem.head_dim;
    }
    const T* k = static_cast<const T*>(problem.k) + from;
    const T* v = static_cast<const T*>(problem.v) + from;
    const int at = Shape::ElementAt(row, chunk);
    if (wide) {
      ptx::CpAsync16(&stage.k[at], k, exists ? kChunkBytes : 0);
      ptx::CpAsync16(&stage.v[at], v, exists ? kChunkBytes : 0);
      continue;
    }
#pragma unroll 1
    for (int e = 0; e < Shape::kPerChunk; ++e) {
      const bool real = exists && d + e < problem.head_dim;
      stage.k[at + e] = real ? k[e] : T{};
      stage.v[at + e] = real ? v[e] : T{};
    }
  }
}

// Scales the scores of a tile that all rows see, in powers of two.
template <typename Shape>
SIMT_DEVICE void Scale(const AttentionProblem& problem, Scores<Shape>& scores) {
  const float scale = problem.scale * kLog2E;
#pragma unroll
  for (int j = 0; j < Shape::kKeyFragments; ++j) {
#pragma unroll
    for (int v = 0; v < 4; ++v) scores[j][v] *= scale;
  }
}

// Scales the scores of a tile, in powers of two, and masks what a row does not see.
template <typename Shape>
SIMT_DEVICE void Mask(const AttentionProblem& problem, int tile, const int (&positions)[2],
                      Scores<Shape>& scores) {
  const float scale = problem.scale * kLog2E;
  const int first = tile * Shape::kKeys + GroupThread() % 4 * 2;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int hidden = problem.window > 0 ? positions[half] - problem.window : -1;  // and before it
#pragma unroll
    for (int j = 0; j < Shape::kKeyFragments; ++j) {
#pragma unroll
      for (int c = 0; c < 2; ++c) {
        const int key = first + j * 8 + c;
        float& score = scores[j][half * 2 + c];
        score = key <= positions[half] && key > hidden ? score * scale : -kInfinity;
      }
    }
  }
}

}  // namespace tessera::cuda::attention

#endif  // TESSERA_KERNELS_CUDA_KERNELS_ATTENTION_ROWS_H_
