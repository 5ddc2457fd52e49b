// Any bytes are either refused with INVALID_ARGUMENT or NOT_FOUND, or become a request whose values
// the engine may rely on.
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>

#include "kernels/core/status_macros.h"
#include "server/request_builder.h"
#include "tessera/v1/inference.pb.h"
#include "tests/server/fake_model.h"

namespace {

bool IsUnit(float value) { return value >= 0 && value <= 1; }

bool AreTokens(const std::vector<int32_t>& ids) {
  return std::all_of(ids.begin(), ids.end(),
                     [](int32_t id) { return id >= 0 && id < tessera::kFakeVocab; });
}

void CheckRequest(const tessera::GenerateRequest& request) {
  const auto prompt = static_cast<int64_t>(request.prompt_ids.size());
  TESSERA_CHECK(prompt > 0 && AreTokens(request.prompt_ids));
  TESSERA_CHECK(request.stopping.max_tokens.has_value());
  TESSERA_CHECK(*request.stopping.max_tokens >= 1 && prompt + *request.stopping.max_tokens <= 4096);
  TESSERA_CHECK(request.stopping.min_tokens >= 0 &&
                request.stopping.min_tokens <= *request.stopping.max_tokens);
  TESSERA_CHECK(request.n >= 1 && request.n <= 16);
  const tessera::SamplingParams& sampling = request.sampling;
  TESSERA_CHECK(std::isfinite(sampling.temperature) && sampling.temperature >= 0);
  TESSERA_CHECK(IsUnit(sampling.top_p) && sampling.top_p > 0 && IsUnit(sampling.min_p));
  TESSERA_CHECK(sampling.top_k >= 0 && sampling.repetition_penalty > 0);
  TESSERA_CHECK(std::abs(sampling.presence_penalty) <= 2);
  TESSERA_CHECK(std::abs(sampling.frequency_penalty) <= 2);
  for (const auto& [id, bias] : sampling.logit_bias) {
    TESSERA_CHECK(AreTokens({id}) && std::abs(bias) <= 100);
  }
  TESSERA_CHECK(AreTokens(sampling.allowed_token_ids));
  TESSERA_CHECK(AreTokens(request.stopping.stop_token_ids));
  TESSERA_CHECK(request.reasoning.max_thinking_tokens.value_or(0) >= 0);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const auto* const model = new tessera::ServedModel(tessera::FakeServedModel());
  static const auto* const builder = new tessera::RequestBuilder(model, tessera::RequestLimits{});
  static const bool silenced = [] {
    google::protobuf::SetLogHandler(nullptr);
    return true;
  }();
  (void)silenced;
  tessera::v1::GenerateRequest message;
  if (!message.ParseFromArray(data, static_cast<int>(size))) return 0;
  const auto request = builder->Build(message);
  if (request.ok()) {
    CheckRequest(*request);
  } else {
    TESSERA_CHECK(absl::IsInvalidArgument(request.status()) || absl::IsNotFound(request.status()));
    TESSERA_CHECK(request.status().message().size() < 4096);
  }
  return 0;
}
