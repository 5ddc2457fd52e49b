// Cuts attention into tiles: the query heads of one KV head times a few consecutive queries of one
// sequence. When there are few tiles, the spans of their context are tasks of their own.
#include <algorithm>
#include <vector>

#include "kernels/cpu/operations.h"

namespace tessera::cpu {
namespace {

// Rough single-thread speed, to decide whether forking pays.
constexpr double kProductsPerNanosecond = 15;
constexpr int64_t kTilesPerThread = 4;

// Queries [first_query, first_query + queries) of the step, all of one sequence, for `heads` query
// heads of one KV head.
struct Tile {
  const int32_t* block_table;
  int64_t kv_head;
  int64_t first_head;
  int64_t heads;
  int64_t first_query;
  int64_t queries;
  int64_t first_position;  // of its first query

  int64_t rows() const { return queries * heads; }
  int64_t query(int64_t row) const { return first_query + row / heads; }
  int64_t head(int64_t row) const { return first_head + row % heads; }
  int64_t position(int64_t row) const { return first_position + row / heads; }
};

struct Shape {
  int64_t head_dim;
  int64_t group;  // query heads per KV head
  int64_t width;  // of a row of sums
  int64_t StateFloats() const { return kQueryRows * (width + 2); }
};

Shape ShapeOf(const PagedAttentionArgs& args) {
  const int64_t head_dim = args.kv.k.dim(3);
  return {.head_dim = head_dim,
          .group = args.num_q_heads / args.num_kv_heads,
          .width = RoundUpToPanel(head_dim)};
}

AttentionState StateAt(float* memory) {
  return {.largest = memory, .total = memory + kQueryRows, .sums = memory + 2 * kQueryRows};
}

std::vector<Tile> CutTiles(const PagedAttentionArgs& args, const Shape& shape) {
  const int64_t most = std::max<int64_t>(1, kQueryRows / shape.group);
  const int32_t* cu_seqlens = args.cu_seqlens.as<int32_t>();
  std::vector<Tile> tiles;
  for (int64_t s = 0; s < args.context_lens.dim(0); ++s) {
    const int64_t begin = cu_seqlens[s];
    const int64_t queries = cu_seqlens[s + 1] - begin;
    if (args.context_lens.as<int32_t>()[s] == 0) {  // padding
      for (int64_t t = begin; t < begin + queries; ++t) {
        std::fill_n(args.out.as<float>() + t * args.out.stride0(), args.out.dim(1), 0.0F);
      }
      continue;
    }
    const int64_t computed = args.context_lens.as<int32_t>()[s] - queries;
    const int32_t* table = args.block_tables.as<int32_t>() + s * args.block_tables.stride0();
    for (int64_t q = 0; q < queries; q += most) {
      int64_t heads = 0;
      for (int64_t head = 0; head < args.num_q_heads; head += heads) {
        const int64_t kv_head = head / shape.group;
        heads = std::min(kQueryRows, (kv_head + 1) * shape.group - head);
        tiles.push_back({.block_table = table,
                         .kv_head = kv_head,
                         .first_head = head,
                         .heads = heads,
                         .first_query = begin + q,
                         .queries = std::min(most, queries - q),
                         .first_position = computed + q});
      }
    }
  }
  return tiles;
}

int64_t FirstVisible(const PagedAttentionArgs& args, int64_t position) {
  return args.window > 0 ? std::max<int64_t>(0, position - args.window + 1) : 0;
}

// Spans that a tile reads: [first, last].
struct Spans {
  int64_t first;
  int64_t last;
};

Spans SpansOf(const PagedAttentionArgs& args, const Tile& tile) {
  return {.first = FirstVisible(args, tile.first_position) / kSpan,
          .last = (tile.first_position + tile.queries - 1) / kSpan};
}

void AttendSpan(const Context& context, const PagedAttentionArgs& args, const Shape& shape,
                const Tile& tile, int64_t span, const AttentionState& state, float* scratch) {
  const float* q[kQueryRows];
  int32_t first[kQueryRows];
  int32_t last[kQueryRows];
  const int64_t rows = tile.rows();
  for (int64_t r = 0; r < rows; ++r) {
    q[r] = args.q.as<float>() + tile.query(r) * args.q.stride0() + tile.head(r) * shape.head_dim;
    first[r] = static_cast<int32_t>(FirstVisible(args, tile.position(r)));
    last[r] = static_cast<int32_t>(tile.position(r));
  }
  const bool bf16 = args.kv.k.dtype() == DType::kBF16;
  const int64_t head_offset = tile.kv_head * args.kv.k.dim(2) * shape.head_dim * (bf16 ? 2 : 4);
  context.kernels.attend({.q = q,
                          .first = first,
                          .last = last,
                          .rows = rows,
                          .head_dim = shape.head_dim,
                          .begin = std::max<int64_t>(span * kSpan, first[0]),
                          .end = std::min<int64_t>((span + 1) * kSpan, last[rows - 1] + 1),
                          .k = args.kv.k.as<char>() + head_offset,
                          .v = args.kv.v.as<char>() + head_offset,
                          .bf16 = bf16,
                          .block_table = tile.block_table,
                          .block_size = args.kv.k.dim(2),
                          .k_block_stride = args.kv.k.stride0(),
                          .v_block_stride = args.kv.v.stride0(),
                          .scale = args.scale,
                          .state = state,
                          .scratch = scratch});
}

void WriteTile(const Context& context, const PagedAttentionArgs& args, const Shape& shape,
               const Tile& tile, const AttentionState& state) {
  for (int64_t r = 0; r < tile.rows(); ++r) {
    float* out =
        args.out.as<float>() + tile.query(r) * args.out.stride0() + tile.head(r) * shape.head_dim;
    context.kernels.finish(state.sums + r * shape.width, state.total[r], shape.head_dim, out);
  }
}

// All spans of a tile, one after the other.
void WholeTile(const Context& context, const PagedAttentionArgs& args, const Shape& shape,
               const Tile& tile) {
  float* memory = Scratch(2 * shape.StateFloats() + AttentionScratch(shape.head_dim));
  const AttentionState total = StateAt(memory);
  const AttentionState part = StateAt(memory + shape.StateFloats());
  float* scratch = memory + 2 * shape.StateFloats();
  const Spans spans = SpansOf(args, tile);
  for (int64_t span = spans.first; span <= spans.last; ++span) {
    const bool merge = span > spans.first;
    AttendSpan(context, args, shape, tile, span, merge ? part : total, scratch);
    if (merge) context.kernels.merge(total, part, tile.rows(), shape.width);
  }
  WriteTile(context, args, shape, tile, total);
}

// Each span of each tile is a task; then the tiles are put together in the order of their spans.
void SplitTiles(const Context& context, const PagedAttentionArgs& args, const Shape& shape,
                const std::vector<Tile>& tiles, double cost) {
  struct Part {
    const Tile* tile;
    int64_t span;
  };
  std::vector<Part> parts;
  for (const Tile& tile : tiles) {
    const Spans spans = SpansOf(args, tile);
    for (int64_t span = spans.first; span <= spans.last; ++span) parts.push_back({&tile, span});
  }
  const int64_t floats = shape.StateFloats();
  auto* states =
      Scratch<float, ScratchUse::kAttentionStates>(static_cast<int64_t>(parts.size()) * floats);
  const auto state_of = [&](size_t part) { return StateAt(states + part * floats); };
  context.For(static_cast<int64_t>(parts.size()), cost, [&](int64_t part) {
    AttendSpan(context, args, shape, *parts[part].tile, parts[part].span, state_of(part),
               Scratch(AttentionScratch(shape.head_dim)));
  });
  for (size_t begin = 0, end = 0; begin < parts.size(); begin = end) {
    const Tile& tile = *parts[begin].tile;
    for (end = begin + 1; end < parts.size() && parts[end].tile == &tile; ++end) {
      context.kernels.merge(state_of(begin), state_of(end), tile.rows(), shape.width);
    }
    WriteTile(context, args, shape, tile, state_of(begin));
  }
}

}  // namespace

void PagedAttention(const Context& context, const PagedAttentionArgs& args) {
  const Shape shape = ShapeOf(args);
  const std::vector<Tile> tiles = CutTiles(args, shape);
  double pairs = 0;
  bool several_spans = false;
  for (const Tile& tile : tiles) {
    const Spans spans = SpansOf(args, tile);
    several_spans = several_spans || spans.last > spans.first;
    const int64_t positions = tile.first_position + tile.queries - spans.first * kSpan;
    pairs += static_cast<double>(positions) * static_cast<double>(tile.rows() + 4);
  }
  const double cost = pairs * 2 * static_cast<double>(shape.head_dim) / kProductsPerNanosecond;
  const auto count = static_cast<int64_t>(tiles.size());
  if (several_spans && count < kTilesPerThread * context.pool.num_threads()) {
    SplitTiles(context, args, shape, tiles, cost);
  } else {
    // The last tiles of a sequence have the longest context: they go first.
    context.For(count, cost,
                [&](int64_t tile) { WholeTile(context, args, shape, tiles[count - 1 - tile]); });
  }
}

}  // namespace tessera::cpu
