#include "engine/text/chat_template.h"

#include <algorithm>
#include <filesystem>
#include <iterator>
#include <map>
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
constexpr char kDefault[] = "default";
constexpr char kToolUse[] = "tool_use";
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

// Marks where the content of the last message ends: a noncharacter, which no template writes, and a
// space, which a template that trims its messages drops.
constexpr std::string_view kMark = "\uFDD0";
constexpr std::string_view kMarkAndSpace = "\uFDD0 ";

absl::StatusOr<Value> MarkEnd(const Value& messages) {
  const bool has_last = messages.is_list() && !messages.list().items.empty();
  const Value content = has_last ? messages.list().items.back().Get("content") : Value();
  if (!content.is_string()) {
    return absl::InvalidArgumentError("the last message has no text that could be continued");
  }
  jinja::TextBuilder marked;
  marked.Append(content.text());
  marked.Append(kMarkAndSpace, Provenance::kUntrusted);
  std::vector<Value> items = messages.list().items;
  Dict last = items.back().dict().Clone();
  last.Set("content", Value::FromText(std::move(marked).Build()));
  items.back() = Value::MakeDict(std::move(last));
  return Value::MakeList(std::move(items));
}

// The text before the mark. Where the template trimmed behind it, it would have trimmed the
// content.
absl::StatusOr<jinja::Text> CutAtMark(const jinja::Text& text) {
  const std::string_view bytes = text.bytes();
  const size_t mark = bytes.rfind(kMark);
  if (mark == std::string_view::npos) {
    return absl::InvalidArgumentError(
        "chat template: does not show the last message, so that it cannot be continued");
  }
  if (bytes.substr(mark, kMarkAndSpace.size()) == kMarkAndSpace) return text.Slice(0, mark);
  size_t begin = mark;  // of the content: white space of the template stays
  for (const jinja::Span& span : text.untrusted()) {
    if (span.begin <= mark && mark < span.end) begin = span.begin;
  }
  const jinja::Span kept =
      jinja::StripRange(bytes.substr(begin, mark - begin), nullptr, {.left = false});
  return text.Slice(0, begin + kept.end);
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

// A template's text and the file it came from, by the template's name.
struct Source {
  std::string text;
  std::filesystem::path path;
};
using Sources = std::map<std::string, Source>;

absl::StatusOr<Source> ReadSource(const std::filesystem::path& path) {
  ASSIGN_OR_RETURN(std::string text, ReadTextFile(path.string(), kMaxFileBytes));
  return Source{std::move(text), path};
}

absl::StatusOr<Sources> SourcesOfFiles(const std::filesystem::path& model_dir) {
  Sources sources;
  std::error_code error;
  if (const auto path = model_dir / "chat_template.jinja"; std::filesystem::exists(path, error)) {
    ASSIGN_OR_RETURN(sources[kDefault], ReadSource(path));
  }
  const auto folder = model_dir / "additional_chat_templates";
  for (std::filesystem::directory_iterator at(folder, error), end; !error && at != end;
       at.increment(error)) {
    if (at->path().extension() != ".jinja") continue;
    ASSIGN_OR_RETURN(sources[at->path().stem().string()], ReadSource(at->path()));
  }
  return sources;
}

Sources SourcesOfConfig(const Value& config, const std::filesystem::path& path) {
  Sources sources;
  const Value chat_template = config.Get("chat_template");
  if (chat_template.is_string()) sources[kDefault] = {chat_template.str(), path};
  if (!chat_template.is_list()) return sources;
  for (const Value& entry : chat_template.list().items) {
    const Value name = entry.Get("name");
    const Value source = entry.Get("template");
    if (name.is_string() && source.is_string()) sources[name.str()] = {source.str(), path};
  }
  return sources;
}

std::string NamesOf(const Sources& sources) {
  std::string names;
  for (const auto& [name, source] : sources) names += Concat(names.empty() ? "" : ", ", name);
  return names;
}

// What --chat-template names: one of the model's own, or else a file.
absl::StatusOr<Sources> Choose(Sources sources, const std::string& choice) {
  if (choice.empty()) return sources;
  if (const auto it = sources.find(choice); it != sources.end()) {
    return Sources{{kDefault, it->second}};
  }
  std::error_code error;
  if (std::filesystem::exists(choice, error)) {
    ASSIGN_OR_RETURN(Source source, ReadSource(choice));
    return Sources{{kDefault, std::move(source)}};
  }
  return absl::InvalidArgumentError(Concat(
      "--chat-template ", choice, ": there is no such file, and the model has ",
      sources.empty() ? "no template of its own" : "only these templates: ", NamesOf(sources)));
}

// The requests with tools decide how calls are written.
ToolCallFormat FormatOf(const Sources& sources) {
  const auto tool_use = sources.find(kToolUse);
  const Source& source = tool_use != sources.end() ? tool_use->second : sources.at(kDefault);
  return source.text.find("<function=") != std::string::npos ? ToolCallFormat::kCoderXml
                                                             : ToolCallFormat::kHermes;
}

}  // namespace

absl::StatusOr<ChatTemplate> ChatTemplate::FromSource(std::string_view source) {
  ChatTemplate chat;
  ASSIGN_OR_RETURN(chat.default_, jinja::Template::Parse(source));
  chat.tool_call_format_ = FormatOf({{kDefault, {std::string(source), ""}}});
  return chat;
}

absl::StatusOr<ChatTemplate> ChatTemplate::Load(const std::string& model_dir,
                                                const std::string& choice) {
  const std::filesystem::path config_path =
      std::filesystem::path(model_dir) / "tokenizer_config.json";
  std::error_code error;
  Value config = Value::MakeDict(Dict());
  if (std::filesystem::exists(config_path, error)) {
    ASSIGN_OR_RETURN(const std::string json, ReadTextFile(config_path.string(), kMaxFileBytes));
    absl::StatusOr<Value> parsed = jinja::ParseJson(json, Provenance::kTrusted);
    if (!parsed.ok()) return InFile(config_path, parsed.status());
    config = *std::move(parsed);
  }
  ASSIGN_OR_RETURN(Sources sources, SourcesOfFiles(model_dir));
  if (sources.empty()) sources = SourcesOfConfig(config, config_path);
  ASSIGN_OR_RETURN(sources, Choose(std::move(sources), choice));
  if (sources.empty()) {
    return absl::NotFoundError(
        Concat("the model in ", model_dir,
               " has no chat template: add chat_template.jinja, give "
               "one by --chat-template, or send plain prompts instead of messages"));
  }
  if (!sources.contains(kDefault)) {
    return absl::InvalidArgumentError(
        Concat("the model in ", model_dir, " has chat templates (", NamesOf(sources),
               ") but none called default: choose one by --chat-template"));
  }
  ChatTemplate chat;
  for (const char* name : {kDefault, kToolUse}) {
    const auto it = sources.find(name);
    if (it == sources.end()) continue;
    auto& target = it->first == kDefault ? chat.default_ : chat.tool_use_;
    ASSIGN_OR_RETURN(target, ParseIn(it->second.path, it->second.text));
  }
  chat.tool_call_format_ = FormatOf(sources);
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
  Value messages = TrustRoles(input.messages);
  if (input.continue_final_message) {
    ASSIGN_OR_RETURN(messages, MarkEnd(messages));
  }
  variables.Set("messages", std::move(messages));
  variables.Set("tools", input.tools);
  variables.Set("add_generation_prompt", Value::Bool(input.add_generation_prompt));
  if (input.enable_thinking) {
    variables.Set("enable_thinking", Value::Bool(*input.enable_thinking));
  }
  const jinja::Template& chosen = tool_use_ && HasTools(input.tools) ? *tool_use_ : *default_;
  absl::StatusOr<jinja::Text> text = chosen.Render(variables);
  if (!text.ok()) {
    return absl::Status(text.status().code(),
                        Concat("chat template: ", std::string(text.status().message())));
  }
  if (input.continue_final_message) text = CutAtMark(*text);
  RETURN_IF_ERROR(text.status());
  return ToSegments(*text);
}

std::string ConcatenateSegments(const std::vector<PromptSegment>& segments) {
  std::string text;
  for (const PromptSegment& segment : segments) text += segment.text;
  return text;
}

}  // namespace tessera
