#include "server/request_structure.h"

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "kernels/core/status_macros.h"
#include "server/chat_json.h"
#include "server/field_violations.h"
#include "tessera/v1/inference.pb.h"

namespace tessera {
namespace {

using Kind = StructureSpec::Kind;
using Constraints = v1::ConstraintOptions;

constexpr size_t kMaxTextBytes = 262144;  // of a schema, a grammar, all choices
constexpr size_t kMaxRegexBytes = 4096;
constexpr int kMaxChoices = 10000;
constexpr char kOpeningTag[] = "<tool_call>";

// A structure and the field that asks for it.
struct Wanted {
  StructureSpec spec;
  std::string field;
};

bool MustCall(const v1::ChatPrompt& chat) {
  return chat.tool_choice() == v1::TOOL_CHOICE_REQUIRED ||
         chat.tool_choice() == v1::TOOL_CHOICE_NAMED;
}

bool HasTools(const v1::GenerateRequest& request) {
  return request.has_chat() && request.chat().tools_size() > 0 &&
         request.chat().tool_choice() != v1::TOOL_CHOICE_NONE;
}

bool IsSingle(const v1::ChatPrompt& chat) {
  return chat.has_parallel_tool_calls() && !chat.parallel_tool_calls();
}

absl::Status TakeText(const std::string& text, size_t most, Wanted* wanted) {
  if (text.empty()) return FieldError(wanted->field, "must not be empty");
  if (text.size() > most) {
    return FieldError(wanted->field,
                      absl::StrCat("has ", text.size(), " bytes; at most ", most, " are possible"));
  }
  wanted->spec.text = text;
  return absl::OkStatus();
}

absl::Status TakeChoices(const v1::Choices& choices, Wanted* wanted) {
  if (choices.texts_size() < 1 || choices.texts_size() > kMaxChoices) {
    return FieldError(wanted->field, absl::StrCat("must be 1 to ", kMaxChoices, " texts"));
  }
  size_t bytes = 0;
  for (const std::string& text : choices.texts()) {
    if (text.empty()) return FieldError(wanted->field, "must not hold an empty text");
    bytes += text.size();
    wanted->spec.choices.push_back(text);
  }
  if (bytes > kMaxTextBytes) {
    return FieldError(wanted->field, absl::StrCat("is more than ", kMaxTextBytes, " bytes"));
  }
  return absl::OkStatus();
}

// What `constraints` asks for; its field is empty when that is nothing.
absl::StatusOr<Wanted> ReadAnswer(const Constraints& in) {
  Wanted wanted;
  const auto is = [&](Kind kind, const char* field) {
    wanted.spec.kind = kind;
    wanted.field = absl::StrCat("constraints.", field);
  };
  switch (in.structure_case()) {
    case Constraints::kJsonSchema:
      is(Kind::kJsonSchema, "json_schema");
      RETURN_IF_ERROR(TakeText(in.json_schema(), kMaxTextBytes, &wanted));
      break;
    case Constraints::kJsonObject:
      is(Kind::kJsonObject, "json_object");
      if (!in.json_object()) return FieldError(wanted.field, "must be true");
      break;
    case Constraints::kRegex:
      is(Kind::kRegex, "regex");
      RETURN_IF_ERROR(TakeText(in.regex(), kMaxRegexBytes, &wanted));
      break;
    case Constraints::kChoice:
      is(Kind::kChoice, "choice");
      RETURN_IF_ERROR(TakeChoices(in.choice(), &wanted));
      break;
    case Constraints::kGrammar:
      is(Kind::kGbnf, "grammar");
      RETURN_IF_ERROR(TakeText(in.grammar(), kMaxTextBytes, &wanted));
      break;
    case Constraints::STRUCTURE_NOT_SET:
      break;
  }
  return wanted;
}

absl::Status CheckToolChoice(const v1::GenerateRequest& request) {
  const v1::ChatPrompt& chat = request.chat();
  if (!chat.tool_name().empty() && chat.tool_choice() != v1::TOOL_CHOICE_NAMED) {
    return FieldError("chat.tool_name", "only with TOOL_CHOICE_NAMED");
  }
  if (!MustCall(chat)) return absl::OkStatus();
  if (chat.tools_size() == 0) return FieldError("chat.tool_choice", "there are no tools to call");
  if (request.constraints().structure_case() != Constraints::STRUCTURE_NOT_SET) {
    return FieldError("chat.tool_choice", "a call that is forced leaves no room for a structure");
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<ChatTool>> ToolsOf(const v1::ChatPrompt& chat) {
  int index = 0;
  absl::StatusOr<std::vector<ChatTool>> tools = ReadTools(chat, &index);
  if (tools.ok()) return tools;
  return FieldError(absl::StrCat("chat.tools[", index, "]"), std::string(tools.status().message()));
}

// Calls that must follow the tools' schemas: forced ones, those of strict tools, or a single one.
absl::Status AddCalls(const v1::ChatPrompt& chat, const ServedModel& model, Wanted* wanted,
                      GenerateRequest* out) {
  ASSIGN_OR_RETURN(std::vector<ChatTool> tools, ToolsOf(chat));
  const bool is_named = chat.tool_choice() == v1::TOOL_CHOICE_NAMED;
  const bool answers = !wanted->field.empty();
  if (is_named) {
    std::erase_if(tools, [&](const ChatTool& tool) { return tool.name != chat.tool_name(); });
    if (tools.empty()) return FieldError("chat.tool_name", "is none of the tools");
  }
  const bool any_strict =
      std::any_of(tools.begin(), tools.end(), [](const ChatTool& tool) { return tool.strict; });
  const bool optional = !MustCall(chat) && !answers;
  if (optional && !any_strict && !IsSingle(chat)) return absl::OkStatus();
  const std::optional<int32_t> opening = model.structures->FindToken(kOpeningTag);
  // Without a token that opens calls, or in another form, calls of the model's own are as it
  // writes them.
  const bool can = model.tool_call_format == ToolCallFormat::kHermes && (opening || !optional);
  if (!can && optional) return absl::OkStatus();
  if (!can) return FieldError("chat.tool_choice", "calls of this model's form cannot be forced");

  StructureSpec calls{.kind = Kind::kTools,
                      .text = wanted->spec.text,
                      .object_only = wanted->spec.kind == Kind::kJsonObject,
                      .format = model.tool_call_format,
                      .single_call = is_named || optional || IsSingle(chat)};
  if (answers && wanted->spec.kind == Kind::kJsonObject) calls.text = "true";
  for (const ChatTool& tool : tools) {
    const bool follows = tool.strict || MustCall(chat);
    calls.tools.push_back({tool.name, follows ? tool.parameters : ""});
  }
  if (answers && wanted->spec.kind != Kind::kJsonSchema && wanted->spec.kind != Kind::kJsonObject) {
    return FieldError(wanted->field, "not with tools that the model may call");
  }
  if (!answers) wanted->field = "chat.tools";
  wanted->spec = std::move(calls);
  out->output.named_call = is_named;
  out->structure.optional_calls = optional;
  out->structure.single_call = optional && IsSingle(chat);
  out->structure.opening_token_id = opening.value_or(-1);
  return absl::OkStatus();
}

bool BeginsInThought(const GenerateRequest& request, const ServedModel& model) {
  if (!model.supports_reasoning() || request.reasoning.starts_closed) return false;
  const auto last = std::find_if(
      request.prompt_ids.rbegin(), request.prompt_ids.rend(),
      [&](int32_t id) { return id == *model.think_open_id || id == *model.think_close_id; });
  return last != request.prompt_ids.rend() && *last == *model.think_open_id;
}

absl::Status CheckRoom(const ServedModel& model, const GenerateRequest& request) {
  if (request.structure.optional_calls) return absl::OkStatus();
  const int64_t needed =
      request.structure.structure->shortest_tokens() + (BeginsInThought(request, model) ? 1 : 0);
  const int64_t most = request.stopping.max_tokens.value_or(model.max_model_len);
  if (needed <= most) return absl::OkStatus();
  return FieldError("stopping.max_tokens",
                    absl::StrCat("the structure needs up to ", needed, " tokens, got ", most));
}

}  // namespace

bool WantsStructure(const v1::GenerateRequest& request) {
  if (request.constraints().structure_case() != Constraints::STRUCTURE_NOT_SET) return true;
  if (!HasTools(request)) return false;
  const v1::ChatPrompt& chat = request.chat();
  return MustCall(chat) || IsSingle(chat) ||
         std::any_of(chat.tools().begin(), chat.tools().end(),
                     [](const std::string& tool) { return absl::StrContains(tool, "\"strict\""); });
}

absl::Status ReadStructure(const v1::GenerateRequest& request, const ServedModel& model,
                           GenerateRequest* out) {
  if (request.has_chat()) RETURN_IF_ERROR(CheckToolChoice(request));
  if (!WantsStructure(request)) return absl::OkStatus();
  ASSIGN_OR_RETURN(Wanted wanted, ReadAnswer(request.constraints()));
  if (model.structures == nullptr) {
    return FieldError(wanted.field.empty() ? "chat.tool_choice" : wanted.field,
                      "this model has no tokenizer.json, so its output cannot be constrained");
  }
  if (HasTools(request)) {
    RETURN_IF_ERROR(AddCalls(request.chat(), model, &wanted, out));
  }
  if (wanted.field.empty()) return absl::OkStatus();
  for (const auto& [name, is_set] :
       {std::pair("bad_words", request.constraints().bad_words_size() > 0),
        std::pair("allowed_token_ids", request.constraints().allowed_token_ids_size() > 0)}) {
    if (!is_set) continue;
    return FieldError(absl::StrCat("constraints.", name), "not together with a structure");
  }
  absl::StatusOr<std::shared_ptr<const Structure>> structure = model.structures->Get(wanted.spec);
  if (!structure.ok()) {
    return FieldError(wanted.field, std::string(structure.status().message()));
  }
  out->structure.structure = *std::move(structure);
  return CheckRoom(model, *out);
}

}  // namespace tessera
