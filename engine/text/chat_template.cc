#include "engine/text/chat_template.h"

#include <algorithm>
#include <filesystem>
#include <iterator>
#include <system_error>

#include "engine/text/jinja/concat.h"
#include "engine/text/jinja/json_parse.h"
#include "kernels/core/status_macros.h"
#include "kernels/core/text_file.h"

namespace tessera {
namespace {

using jinja::Concat;
using jinja::Dict;
using jinja::Provenance;
using jinja::Value;

constexpr int64_t kMaxFileBytes = 64 << 20;
constexpr std::string_view kSpecialTokens[] = {"bos_token", "eos_token", "unk_token", "pad_token"};
constexpr std::string_view kRoles[] = {"system", "user",      "assistant",
                                       "tool",   "developer", "function"};

absl::Status InFile(const std::filesystem::path& path, const absl::Status& status) {
  return absl::Status(status.code(), Concat(path.string(), ": ", std::string(status.message())));
}

absl::StatusOr<jinja::Template> ParseIn(const std::filesystem::path& path,
                                        std::string_view source) {
  absl::StatusOr<jinja::Template> parsed = jinja::Template::Parse(source);
  if (!parsed.ok()) return InFile(path, parsed.status());
  return parsed;
}

// A known role is a word of the protocol, not text of a user.
Value TrustRole(const Value& message) {
  if (!message.is_dict()) return message;
  const Value role = message.Get("role");
  if (!role.is_string() ||
      std::find(std::begin(kRoles), std::end(kRoles), role.str()) == std::end(kRoles)) {
    return message;
  }
  Dict dict = message.dict().Clone();
  dict.Set("role", Value::String(role.str()));
  return Value::MakeDict(std::move(dict));
}

Value TrustRoles(const Value& messages) {
  if (!messages.is_list()) return messages;
  std::vector<Value> trusted;
  trusted.reserve(messages.list().items.size());
  for (const Value& message : messages.list().items) trusted.push_back(TrustRole(message));
  return Value::MakeList(std::move(trusted));
}

std::vector<PromptSegment> ToSegments(const jinja::Text& text) {
  std::vector<PromptSegment> segments;
  const std::string& bytes = text.bytes();
  const auto add = [&segments, &bytes](size_t begin, size_t end, bool trusted) {
    if (begin < end) segments.push_back({bytes.substr(begin, end - begin), trusted});
  };
  size_t at = 0;
  for (const jinja::Span& span : text.untrusted()) {
    add(at, span.begin, true);
    add(span.begin, span.end, false);
    at = span.end;
  }
  add(at, bytes.size(), true);
  return segments;
}

// The text of a token entry: a string, or an object with "content".
Value TokenText(const Value& entry) {
  const Value text = entry.is_dict() ? entry.Get("content") : entry;
  return text.is_string() ? text : Value();
}

bool HasTools(const Value& tools) { return tools.is_list() && !tools.list().items.empty(); }

struct NamedSources {
  std::string fallback;
  std::optional<std::string> tool_use;
};

absl::StatusOr<NamedSources> ReadSources(const Value& config, const std::string& model_dir) {
  const Value chat_template = config.Get("chat_template");
  if (chat_template.is_string()) return NamedSources{chat_template.str(), std::nullopt};
  NamedSources sources;
  bool found = false;
  if (chat_template.is_list()) {
    for (const Value& entry : chat_template.list().items) {
      const Value name = entry.Get("name");
      const Value source = entry.Get("template");
      if (!name.is_string() || !source.is_string()) continue;
      if (name.str() == "tool_use") sources.tool_use = source.str();
      if (name.str() != "default") continue;
      sources.fallback = source.str();
      found = true;
    }
  }
  if (found) return sources;
  return absl::NotFoundError(Concat(
      "the model in ", model_dir,
      " has no chat template: add chat_template.jinja, or send plain prompts instead of messages"));
}

}  // namespace

ChatTemplate::ChatTemplate(jinja::Template fallback, std::string_view source)
    : default_(std::move(fallback)),
      tool_call_format_(source.find("<function=") != std::string_view::npos
                            ? ToolCallFormat::kCoderXml
                            : ToolCallFormat::kHermes) {}

absl::StatusOr<ChatTemplate> ChatTemplate::FromSource(std::string_view source) {
  ASSIGN_OR_RETURN(jinja::Template parsed, jinja::Template::Parse(source));
  return ChatTemplate(std::move(parsed), source);
}

absl::StatusOr<ChatTemplate> ChatTemplate::Load(const std::string& model_dir) {
  const std::filesystem::path config_path =
      std::filesystem::path(model_dir) / "tokenizer_config.json";
  std::filesystem::path source_path = std::filesystem::path(model_dir) / "chat_template.jinja";
  std::error_code error;
  Value config = Value::MakeDict(Dict());
  if (std::filesystem::exists(config_path, error)) {
    ASSIGN_OR_RETURN(const std::string json, ReadTextFile(config_path.string(), kMaxFileBytes));
    absl::StatusOr<Value> parsed = jinja::ParseJson(json, Provenance::kTrusted);
    if (!parsed.ok()) return InFile(config_path, parsed.status());
    config = *std::move(parsed);
  }
  NamedSources sources;
  if (std::filesystem::exists(source_path, error)) {
    ASSIGN_OR_RETURN(sources.fallback, ReadTextFile(source_path.string(), kMaxFileBytes));
  } else {
    ASSIGN_OR_RETURN(sources, ReadSources(config, model_dir));
    source_path = config_path;
  }
  ASSIGN_OR_RETURN(jinja::Template parsed, ParseIn(source_path, sources.fallback));
  ChatTemplate chat(std::move(parsed), sources.fallback);
  if (sources.tool_use) {
    ASSIGN_OR_RETURN(chat.tool_use_, ParseIn(source_path, *sources.tool_use));
  }
  for (const std::string_view name : kSpecialTokens) {
    const Value token = TokenText(config.Get(name));
    if (token.is_string()) chat.special_tokens_.emplace_back(std::string(name), token.str());
  }
  return chat;
}

absl::StatusOr<std::vector<PromptSegment>> ChatTemplate::Render(const ChatInput& input) const {
  Dict variables;
  for (const auto& [name, token] : special_tokens_) variables.Set(name, Value::String(token));
  if (input.extra.is_dict()) {
    for (const auto& [name, value] : input.extra.dict().entries()) variables.Set(name, value);
  }
  variables.Set("messages", TrustRoles(input.messages));
  variables.Set("tools", input.tools);
  variables.Set("add_generation_prompt", Value::Bool(input.add_generation_prompt));
  if (input.enable_thinking) {
    variables.Set("enable_thinking", Value::Bool(*input.enable_thinking));
  }
  const jinja::Template& chosen = tool_use_ && HasTools(input.tools) ? *tool_use_ : default_;
  absl::StatusOr<jinja::Text> text = chosen.Render(variables);
  if (!text.ok()) {
    return absl::Status(text.status().code(),
                        Concat("chat template: ", std::string(text.status().message())));
  }
  return ToSegments(*text);
}

std::string ConcatenateSegments(const std::vector<PromptSegment>& segments) {
  std::string text;
  for (const PromptSegment& segment : segments) text += segment.text;
  return text;
}

}  // namespace tessera
