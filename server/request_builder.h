// The one validator: what a client sent → what the engine runs.
#ifndef TESSERA_SERVER_REQUEST_BUILDER_H_
#define TESSERA_SERVER_REQUEST_BUILDER_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/types.h"
#include "server/field_violations.h"
#include "server/served_model.h"

namespace tessera {

namespace v1 {
class ChatPrompt;
class DetokenizeRequest;
class GenerateRequest;
class ReasoningOptions;
class TokenizeRequest;
}  // namespace v1

struct RequestLimits {
  int32_t max_n = 16;
  int32_t max_logprobs = 20;
  int32_t max_stop_strings = 16;
  int32_t max_stop_bytes = 256;  // of one string
  int32_t max_stop_token_ids = 64;
  int32_t max_constraint_ids = 1024;  // logit_bias; bad words; allowed ids, each
  int32_t max_messages = 4096;
  int32_t max_tools = 128;
  int32_t max_close_message_bytes = 1024;
};

// Immutable; any number of threads. Errors: InvalidArgument with every offending field in the
// message and as google.rpc.BadRequest payload, NotFound for another model's name.
class RequestBuilder {
 public:
  RequestBuilder(const ServedModel* model, RequestLimits limits) : model_(model), limits_(limits) {}

  // Leaves external_id as the client sent it (perhaps empty), arrival and deadline to the caller.
  // `before_encoding` is asked, with all but the prompt, after the checks that cost little and
  // before the prompt is rendered and tokenised, which may cost much: its error ends the work.
  absl::StatusOr<GenerateRequest> Build(
      const v1::GenerateRequest& request,
      absl::FunctionRef<absl::Status(const GenerateRequest&)> before_encoding =
          [](const GenerateRequest&) { return absl::OkStatus(); }) const;

  // Whether Build may take long however small the message is.
  static bool MayTakeLong(const v1::GenerateRequest& request);

  absl::StatusOr<std::vector<int32_t>> Tokenize(const v1::TokenizeRequest& request) const;
  absl::StatusOr<std::string> Detokenize(const v1::DetokenizeRequest& request) const;

  // OK for the empty name and the served one.
  absl::Status CheckModelName(const std::string& name) const;

 private:
  absl::StatusOr<std::vector<int32_t>> EncodePrompt(const v1::GenerateRequest& request) const;
  absl::StatusOr<std::vector<int32_t>> EncodeChat(const v1::ChatPrompt& chat,
                                                  std::optional<bool> enable_thinking) const;
  absl::Status ReadBadWords(const v1::GenerateRequest& request, GenerateRequest* out,
                            FieldViolations* violations) const;
  // In words, for refusals.
  std::string ContextLimit() const;
  void FitContext(const v1::GenerateRequest& request, GenerateRequest* out,
                  FieldViolations* violations) const;
  // How a chat is to be rendered, and whether it is not thought about only for want of budget.
  struct ChatThinking {
    std::optional<bool> enable;
    bool is_cut = false;
  };
  absl::StatusOr<ChatThinking> ThinkingOf(const v1::GenerateRequest& request) const;
  absl::Status ReadBudget(const v1::ReasoningOptions& in, GenerateRequest* out) const;
  absl::Status ReadReasoning(const v1::GenerateRequest& request, GenerateRequest* out) const;
  bool EndsWithClosedThinkBlock(const std::vector<int32_t>& ids) const;

  const ServedModel* model_;
  RequestLimits limits_;
};

}  // namespace tessera

#endif  // TESSERA_SERVER_REQUEST_BUILDER_H_
