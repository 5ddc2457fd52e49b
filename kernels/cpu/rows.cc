// Operations that copy rows.
#include <algorithm>
#include <cstring>

#include "kernels/cpu/operations.h"
#include "kernels/cpu/weight.h"

namespace tessera::cpu {

void Embed(const Context& context, const EmbedArgs& args) {
  const PackedWeight& table = PackedWeight::Of(*args.table);
  const int64_t tokens = args.ids.dim(0);
  context.For(tokens, static_cast<double>(tokens * table.cols()) * 4, [&](int64_t t) {
    float* out = args.out.as<float>() + t * args.out.stride0();
    const int64_t row = int64_t{args.IdOf(t)} - args.vocab_begin;
    if (row < 0 || row >= table.rows()) {
      std::fill_n(out, table.cols(), 0.0F);
    } else {
      table.CopyRow(row, out);
    }
  });
}

void GatherRows(const Context& context, const GatherRowsArgs& args) {
  const auto element = static_cast<int64_t>(SizeOf(args.x.dtype()));
  const int64_t bytes = args.x.dim(1) * element;
  const int64_t rows = args.rows.dim(0);
  context.For(rows, static_cast<double>(rows * bytes) / 8, [&](int64_t i) {
    const int64_t row = args.rows.as<int32_t>()[i];
    char* out = args.out.as<char>() + i * args.out.stride0() * element;
    if (row < 0) {
      std::memset(out, 0, bytes);
    } else {
      std::memcpy(out, args.x.as<char>() + row * args.x.stride0() * element, bytes);
    }
  });
}

void CopyBlocks(const Context& context, const CopyBlocksArgs& args) {
  const int64_t bytes = args.cache.dim(2) * static_cast<int64_t>(SizeOf(args.cache.dtype()));
  const int64_t pairs = args.from.dim(0);
  const int64_t copies = args.cache.dim(0) * pairs;
  context.For(copies, static_cast<double>(copies * bytes) / 8, [&](int64_t copy) {
    char* blocks = args.cache.as<char>() + copy / pairs * args.cache.dim(1) * bytes;
    std::memcpy(blocks + args.to.as<int32_t>()[copy % pairs] * bytes,
                blocks + args.from.as<int32_t>()[copy % pairs] * bytes, bytes);
  });
}

void ConcatColumns(const Context& context, const ConcatColumnsArgs& args) {
  const int64_t shards = args.shards.dim(0);
  const int64_t rows = args.shards.dim(1);
  const int64_t width = args.shards.dim(2);
  const int64_t columns = args.out.dim(1);
  context.For(rows * shards, static_cast<double>(rows * columns), [&](int64_t task) {
    const int64_t row = task / shards;
    const int64_t shard = task % shards;
    const int64_t count = std::min(width, columns - shard * width);
    if (count <= 0) return;
    std::memcpy(args.out.as<float>() + row * args.out.stride0() + shard * width,
                args.shards.as<float>() + (shard * rows + row) * width, count * sizeof(float));
  });
}

}  // namespace tessera::cpu
