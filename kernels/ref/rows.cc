#include <cstring>
#include <vector>

#include "kernels/ref/element.h"
#include "kernels/ref/ref_ops.h"
#include "kernels/ref/weight.h"

namespace tessera::ref {

void Embed(const EmbedArgs& args) {
  const auto& table = static_cast<const RefWeight&>(*args.table);
  for (int64_t t = 0; t < args.ids.dim(0); ++t) {
    const int64_t row = int64_t{args.IdOf(t)} - args.vocab_begin;
    const bool here = row >= 0 && row < table.rows();
    StoreRow(args.out, t, 0, here ? table.Row(row) : std::vector<float>(table.cols()));
  }
}

void GatherRows(const GatherRowsArgs& args) {
  const auto element = static_cast<int64_t>(SizeOf(args.x.dtype()));
  for (int64_t i = 0; i < args.rows.dim(0); ++i) {
    const int64_t row = args.rows.as<int32_t>()[i];
    char* out = args.out.as<char>() + i * args.out.stride0() * element;
    if (row < 0) {
      std::memset(out, 0, args.x.dim(1) * element);
    } else {
      std::memcpy(out, args.x.as<char>() + row * args.x.stride0() * element,
                  args.x.dim(1) * element);
    }
  }
}

void CopyBlocks(const CopyBlocksArgs& args) {
  const int64_t bytes = args.cache.dim(2) * static_cast<int64_t>(SizeOf(args.cache.dtype()));
  for (int64_t part = 0; part < args.cache.dim(0); ++part) {
    char* blocks = args.cache.as<char>() + part * args.cache.dim(1) * bytes;
    for (int64_t i = 0; i < args.from.dim(0); ++i) {
      std::memcpy(blocks + args.to.as<int32_t>()[i] * bytes,
                  blocks + args.from.as<int32_t>()[i] * bytes, bytes);
    }
  }
}

void ConcatColumns(const ConcatColumnsArgs& args) {
  const int64_t rows = args.shards.dim(1);
  const int64_t width = args.shards.dim(2);
  for (int64_t n = 0; n < rows; ++n) {
    for (int64_t column = 0; column < args.out.dim(1); ++column) {
      const int64_t shard = column / width;
      args.out.as<float>()[n * args.out.stride0() + column] =
          args.shards.as<float>()[(shard * rows + n) * width + column % width];
    }
  }
}

}  // namespace tessera::ref
