// How many KV blocks fit.
#ifndef TESSERA_ENGINE_KV_SIZING_H_
#define TESSERA_ENGINE_KV_SIZING_H_

#include <cstdint>

#include "absl/status/statusor.h"

namespace tessera {

struct KvSizingInputs {
  int64_t kv_cache_bytes = 0;  // asked for; 0: chosen
  // This group's share of free memory, of which a quarter is taken, at most 4 GiB; or, when
  // `reserved`, memory that is there for the KV cache, to be taken whole.
  int64_t available_bytes = 0;
  bool reserved = false;
  int64_t block_bytes = 0;  // of one block on all ranks of a group
  int32_t block_size = 0;   // tokens
  int32_t max_num_seqs = 0;
  int32_t model_limit = 0;    // tokens the model can see
  int32_t max_model_len = 0;  // asked for; 0: as much as fits
};

struct KvSizing {
  int32_t num_blocks = 0;
  int32_t max_model_len = 0;  // tokens; at least one sequence of this length fits
};

// RESOURCE_EXHAUSTED when the memory does not hold what was asked for, INVALID_ARGUMENT when the
// model cannot do it; both say what to change.
absl::StatusOr<KvSizing> SizeKvCache(const KvSizingInputs& inputs);

}  // namespace tessera

#endif  // TESSERA_ENGINE_KV_SIZING_H_
