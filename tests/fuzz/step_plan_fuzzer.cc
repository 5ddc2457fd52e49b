// Any bytes are a valid plan or a refused one; a decoded plan survives a round trip.
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "engine/executor/step_plan_codec.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  for (int32_t groups : {1, 2}) {
    const tessera::PlanLimits limits{.num_groups = groups,
                                     .num_ranks = 2 * groups,
                                     .vocab_size = 300,
                                     .block_size = 4,
                                     .num_blocks = 16,
                                     .max_tokens = 64,
                                     .max_num_seqs = 8,
                                     .max_positions = 64};
    const auto plan = tessera::DecodeStepPlan(bytes, limits);
    if (plan.ok() && !tessera::DecodeStepPlan(tessera::EncodeStepPlan(*plan), limits).ok()) {
      std::abort();
    }
    const auto result = tessera::DecodeNodeStepResult(bytes, limits);
    if (result.ok() &&
        !tessera::DecodeNodeStepResult(tessera::EncodeNodeStepResult(*result), limits).ok()) {
      std::abort();
    }
  }
  return 0;
}
