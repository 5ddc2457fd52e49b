#include "engine/kv_sizing.h"

#include <algorithm>
#include <limits>
#include <string>

#include "absl/strings/str_cat.h"

namespace tessera {
namespace {

constexpr int64_t kMaxDefaultBytes = int64_t{4} << 30;
// Shorter contexts serve nobody; better to say that memory is missing.
constexpr int32_t kMinModelLen = 16;

int64_t WantedBytes(const KvSizingInputs& in) {
  if (in.kv_cache_bytes > 0) return in.kv_cache_bytes;
  if (in.reserved) return std::max<int64_t>(in.available_bytes, 0);
  return std::min(in.available_bytes / 4, kMaxDefaultBytes);
}

absl::Status TooSmall(const KvSizingInputs& in, int64_t tokens, int32_t wanted_len,
                      int64_t needed_bytes) {
  std::string remedy;
  if (tokens >= kMinModelLen) {
    absl::StrAppend(&remedy, "--max-model-len ", tokens, " would fit; or ");
  }
  if (in.kv_cache_bytes == 0 && in.reserved) {
    absl::StrAppend(&remedy,
                    "raise --gpu-memory-utilization, lower --max-num-batched-tokens or "
                    "--max-num-seqs, or spread the model over more GPUs "
                    "(--tensor-parallel-size)");
  } else {
    absl::StrAppend(&remedy, "give the KV cache more memory (--kv-cache-memory)");
  }
  return absl::ResourceExhaustedError(absl::StrCat(
      "a KV cache of ", WantedBytes(in), " bytes, ",
      in.kv_cache_bytes > 0 ? "which was asked for" : "which there is room for", ", holds ", tokens,
      " tokens, one sequence of ", wanted_len, " tokens needs ", needed_bytes, " bytes: ", remedy));
}

}  // namespace

absl::StatusOr<KvSizing> SizeKvCache(const KvSizingInputs& in) {
  const int32_t wanted_len = in.max_model_len > 0 ? in.max_model_len : in.model_limit;
  const int64_t blocks_per_sequence = (wanted_len + in.block_size - 1) / in.block_size;
  int64_t blocks = WantedBytes(in) / std::max<int64_t>(in.block_bytes, 1);
  // Slot numbers are 32 bits wide.
  blocks = std::min<int64_t>(blocks, std::numeric_limits<int32_t>::max() / in.block_size);
  // By default not more than all sequences can fill, and as much again for the prefix cache.
  if (in.kv_cache_bytes == 0) {
    blocks = std::min(blocks, 2 * blocks_per_sequence * std::max(in.max_num_seqs, 1));
  }
  const int64_t tokens = blocks * in.block_size;
  if (tokens < std::max(kMinModelLen, in.max_model_len)) {
    return TooSmall(in, tokens, wanted_len,
                    std::max<int64_t>(blocks_per_sequence, 1) * in.block_bytes);
  }
  return KvSizing{.num_blocks = static_cast<int32_t>(blocks),
                  .max_model_len = static_cast<int32_t>(std::min<int64_t>(wanted_len, tokens))};
}

}  // namespace tessera
