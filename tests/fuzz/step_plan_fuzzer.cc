// Any bytes are a valid plan or a refused one; a decoded plan survives a round trip. The first byte
// chooses: the rest is a message, or it damages a valid plan or result, so that what lies behind
// the first checks is reached whatever the format is today.
#include <cstdint>
#include <string>
#include <string_view>

#include "engine/executor/step_plan_codec.h"
#include "kernels/core/status_macros.h"
#include "tests/engine/executor/random_plan.h"
#include "tests/fuzz/damage.h"

namespace {

using tessera::kRandomPlanLimits;

std::string Message(std::string_view input) {
  enum : uint8_t { kBytes, kPlan, kResult, kNumKinds };
  const uint8_t kind = static_cast<uint8_t>(input[0]) % kNumKinds;
  input.remove_prefix(1);
  if (kind == kBytes || input.empty()) return std::string(input);
  tessera::RandomPlan valid(static_cast<uint8_t>(input[0]));
  return tessera::Damaged(kind == kPlan ? tessera::EncodeStepPlan(valid.Plan())
                                        : tessera::EncodeNodeStepResult(valid.Result()),
                          input.substr(1));
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const std::string bytes = Message({reinterpret_cast<const char*>(data), size});
  const auto plan = tessera::DecodeStepPlan(bytes, kRandomPlanLimits);
  if (plan.ok()) {
    TESSERA_CHECK(tessera::DecodeStepPlan(tessera::EncodeStepPlan(*plan), kRandomPlanLimits).ok());
  }
  const auto result = tessera::DecodeNodeStepResult(bytes, kRandomPlanLimits);
  if (result.ok()) {
    TESSERA_CHECK(
        tessera::DecodeNodeStepResult(tessera::EncodeNodeStepResult(*result), kRandomPlanLimits)
            .ok());
  }
  return 0;
}
