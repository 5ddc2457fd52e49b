// What a request of the HTTP API asks for: the neutral messages that the validator reads, and how
// the answer is to look.
#ifndef TESSERA_SERVER_HTTP_OPENAI_API_REQUEST_H_
#define TESSERA_SERVER_HTTP_OPENAI_API_REQUEST_H_

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "server/http/openai/api_fields.h"
#include "tessera/v1/inference.pb.h"

namespace tessera {

enum class ApiKind : uint8_t { kChat, kCompletion, kResponses, kMessages };

struct ApiRequest {
  ApiKind kind = ApiKind::kChat;
  std::vector<v1::GenerateRequest> prompts;  // one per prompt, 1 or more
  bool stream = false;
  bool include_usage = false;
  bool continuous_usage = false;
  bool include_reasoning = true;
  bool parallel_tool_calls = true;
  bool return_token_ids = false;
  bool tokens_as_ids = false;  // "token_id:17" instead of a token's text
  bool echo = false;
  bool score_only = false;  // max_tokens was 0: the one token that is made is not shown
  std::string echoed;       // responses: members of the answer that repeat the request, `,"a":1…`
  std::string echoed_text;  // chats: text of the last message, in front of the answer
  // What the client called max_tokens, the thinking budget and the structure, for errors.
  std::string max_tokens_name = "max_tokens";
  std::string budget_name = "thinking_token_budget";
  std::string structure_name = "response_format";
  std::string beam_width_name = "n";
};

// Prompts of one request at most.
inline constexpr int64_t kMaxPrompts = 256;

// Errors: INVALID_ARGUMENT with a google.rpc.BadRequest whose fields have the API's names.
absl::StatusOr<ApiRequest> ReadChatRequest(std::string_view body);
absl::StatusOr<ApiRequest> ReadCompletionRequest(std::string_view body);
absl::StatusOr<ApiRequest> ReadResponsesRequest(std::string_view body);
absl::StatusOr<ApiRequest> ReadMessagesRequest(std::string_view body);
// A string, null, or text parts, which are joined with line ends.
std::string ReadContentText(const ApiFields& message, std::string_view key);
void ReadReasoningEffort(const ApiFields& fields, std::string_view name, v1::ReasoningOptions* out);
// For /tokenize, too: messages and tools of a chat, and how its prompt begins and ends.
void ReadChatPrompt(const ApiFields& fields, v1::ChatPrompt* chat);
// chat_template_kwargs: the switch enable_thinking, if it is set; all else is for the template.
std::optional<bool> ReadTemplateVariables(const ApiFields& fields, v1::ChatPrompt* chat);

// What chat and completions have in common, into `request` and the message of the first prompt.
void ReadCommonFields(const ApiFields& fields, ApiRequest* request, v1::GenerateRequest* prompt);

// response_format, structured_outputs and the older guided_…, of which at most one may be set.
void ReadStructureFields(const ApiFields& fields, ApiRequest* request, v1::ConstraintOptions* out);
// The "format" of a Responses request's "text".
void ReadTextFormat(const ApiFields& text, ApiRequest* request, v1::ConstraintOptions* out);
// "none", "auto", "required", or a function by name: in `nested` {"function":{"name"}}, else
// {"name"}. Also parallel_tool_calls.
void ReadToolChoice(const ApiFields& fields, bool nested, ApiRequest* request,
                    v1::ChatPrompt* chat);

// A function that stands in its list without a level of its own: {"name", "description", "strict"}
// and the schema of its arguments as `schema_name`. Becomes the nested form that templates know.
void AddFlatTool(const ApiFields& tool, const char* schema_name, v1::ChatPrompt* chat);

// The API's name of a field of the neutral message: "sampling.top_p" → "top_p".
std::string ApiFieldName(std::string_view field, const ApiRequest& request);

}  // namespace tessera

#endif  // TESSERA_SERVER_HTTP_OPENAI_API_REQUEST_H_
