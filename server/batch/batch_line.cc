#include "server/batch/batch_line.h"

#include <optional>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "engine/text/jinja/json_parse.h"
#include "kernels/core/status_macros.h"
#include "server/http/openai/api_fields.h"
#include "server/http/openai/api_kind.h"
#include "server/http/openai/json_shape.h"

namespace tessera {
namespace {

using jinja::Dict;
using jinja::Value;

constexpr size_t kMaxCustomIdBytes = 512;

absl::StatusOr<Value> ParseLine(std::string_view text) {
  RETURN_IF_ERROR(CheckJsonShape(text, {}));
  absl::StatusOr<Value> parsed = jinja::ParseJson(text);
  if (parsed.ok()) return parsed;
  return absl::InvalidArgumentError(absl::StrCat("the line is ", parsed.status().message()));
}

// The forms without a body around it as that body.
absl::StatusOr<Dict> BareBody(const Value& line) {
  Dict body;
  if (line.is_list()) {
    body.Set("messages", line);
    return body;
  }
  if (line.is_string()) {
    Dict message;
    message.Set("role", Value::String("user"));
    message.Set("content", line);
    body.Set("messages", Value::MakeList({Value::MakeDict(std::move(message))}));
    return body;
  }
  return absl::InvalidArgumentError(
      "a line is an object with \"url\" and \"body\", or with \"messages\" or \"prompt\", a list "
      "of "
      "messages, or a string");
}

absl::Status ReadCustomId(const Dict& line, std::string* custom_id) {
  const Value* id = line.Find("custom_id");
  if (id == nullptr || id->is_none()) return absl::OkStatus();
  if (!id->is_string() || id->str().empty() || id->str().size() > kMaxCustomIdBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("custom_id must be a string of 1 to ", kMaxCustomIdBytes, " bytes"));
  }
  *custom_id = id->str();
  return absl::OkStatus();
}

absl::StatusOr<ApiKind> KindOfLine(const Dict& line) {
  const Value* method = line.Find("method");
  if (method != nullptr && !method->is_none() &&
      (!method->is_string() || method->str() != "POST")) {
    return absl::InvalidArgumentError("method must be \"POST\"");
  }
  const Value* url = line.Find("url");
  if (url == nullptr || !url->is_string()) {
    return absl::InvalidArgumentError("url is missing: for example \"/v1/chat/completions\"");
  }
  const std::optional<ApiKind> kind = KindOfPath(url->str());
  if (kind) return *kind;
  return absl::InvalidArgumentError(
      absl::StrCat("url must be /v1/chat/completions, /v1/completions, /v1/responses or "
                   "/v1/messages, got \"",
                   url->str().substr(0, 200), "\""));
}

absl::StatusOr<std::string> BodyOf(const Dict& given, const Dict& defaults) {
  Dict body;
  for (const auto& [name, value] : given.entries()) {
    if (name.str() == "custom_id") continue;
    body.Set(name, value);
  }
  for (const auto& [name, value] : defaults.entries()) {
    if (body.Find(name) == nullptr) body.Set(name, value);
  }
  const Value* stream = body.Find("stream");
  if (stream != nullptr && stream->is_bool() && stream->as_bool()) {
    return absl::InvalidArgumentError("stream: the answers of a batch come whole");
  }
  return CompactJson(Value::MakeDict(std::move(body)));
}

}  // namespace

absl::StatusOr<BatchRequest> ReadBatchLine(std::string_view text, int64_t number,
                                           const Dict& defaults, std::string* custom_id) {
  *custom_id = absl::StrCat("line-", number);
  ASSIGN_OR_RETURN(const Value line, ParseLine(text));
  BatchRequest request;
  const bool is_bare = !line.is_dict() || line.dict().Find("messages") != nullptr ||
                       line.dict().Find("prompt") != nullptr;
  if (line.is_dict()) RETURN_IF_ERROR(ReadCustomId(line.dict(), custom_id));
  request.custom_id = *custom_id;
  if (is_bare && line.is_dict()) {
    request.kind = line.dict().Find("messages") != nullptr ? ApiKind::kChat : ApiKind::kCompletion;
    ASSIGN_OR_RETURN(request.body, BodyOf(line.dict(), defaults));
    return request;
  }
  if (is_bare) {
    ASSIGN_OR_RETURN(const Dict body, BareBody(line));
    ASSIGN_OR_RETURN(request.body, BodyOf(body, defaults));
    return request;
  }
  ASSIGN_OR_RETURN(request.kind, KindOfLine(line.dict()));
  const Value* body = line.dict().Find("body");
  if (body == nullptr || !body->is_dict()) {
    return absl::InvalidArgumentError("body must be a JSON object");
  }
  ASSIGN_OR_RETURN(request.body, BodyOf(body->dict(), defaults));
  return request;
}

}  // namespace tessera
