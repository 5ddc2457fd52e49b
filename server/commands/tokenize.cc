// tessera tokenize: text, lines or chat messages to token ids and back; needs no weights.
#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "engine/files/json_document.h"
#include "engine/model/model_config.h"
#include "engine/text/jinja/json_parse.h"
#include "engine/text/jinja/value.h"
#include "engine/text/tokenizer.h"
#include "engine/text/utf8.h"
#include "kernels/core/status_macros.h"
#include "server/commands/command.h"
#include "server/commands/engine_flags.h"
#include "server/commands/generation_flags.h"
#include "server/commands/response_json.h"
#include "server/logging.h"
#include "server/model_prompt_encoder.h"
#include "server/model_runtime.h"

namespace tessera {
namespace {

using jinja::Value;

struct TokenizeFlags {
  bool lines = false;
  bool decode = false;
  bool parse_special = true;
  bool skip_special = false;
  bool render = false;
  bool generation_prompt = true;
  std::string messages_path;
  std::string tools_path;
  std::string chat_template;
  std::optional<bool> enable_thinking;
};

// The tokenizer files and what the flags say.
struct TokenizeJob {
  const PromptEncoder& encoder;
  const TokenizeFlags& flags;
  int32_t num_ids;  // ids are below
};

absl::StatusOr<std::string> EncodeOne(const TokenizeJob& job, const std::string& text) {
  if (!IsValidUtf8(text)) return absl::InvalidArgumentError("the text is not valid UTF-8");
  ASSIGN_OR_RETURN(const std::vector<int32_t> ids,
                   job.encoder.EncodeText(text, job.flags.parse_special));
  return IdsJson(ids);
}

// `json`: an array of ids.
absl::StatusOr<std::string> DecodeOne(const TokenizeJob& job, const std::string& json) {
  const absl::StatusOr<JsonDocument> document = JsonDocument::Parse(json);
  simdjson::dom::array array;
  if (!document.ok() || document->root().get(array) != simdjson::SUCCESS) {
    return absl::InvalidArgumentError("input must be a JSON array of ids");
  }
  std::vector<int32_t> ids;
  for (const simdjson::dom::element item : array) {
    int64_t id = -1;
    if (item.get(id) != simdjson::SUCCESS || id < 0 || id >= job.num_ids) {
      return absl::InvalidArgumentError(absl::StrCat("not a token id in [0, ", job.num_ids,
                                                     "): ", std::string(simdjson::minify(item))));
    }
    ids.push_back(static_cast<int32_t>(id));
  }
  return job.encoder.Decode(ids, job.flags.skip_special);
}

absl::StatusOr<std::string> ConvertLine(const TokenizeJob& job, const std::string& line) {
  if (job.flags.decode) {
    ASSIGN_OR_RETURN(const std::string text, DecodeOne(job, line));
    return TextJson(text);
  }
  const absl::StatusOr<JsonDocument> document = JsonDocument::Parse(line);
  std::string_view text;
  if (!document.ok() || document->root().get(text) != simdjson::SUCCESS) {
    return absl::InvalidArgumentError("every line must be a JSON string");
  }
  return EncodeOne(job, std::string(text));
}

absl::Status ConvertLines(const TokenizeJob& job) {
  std::vector<std::string> lines = absl::StrSplit(ReadStdin(), '\n');
  if (!lines.empty() && lines.back().empty()) lines.pop_back();
  std::string out;
  for (size_t i = 0; i < lines.size(); ++i) {
    const auto converted = ConvertLine(job, lines[i]);
    if (!converted.ok()) {
      return absl::InvalidArgumentError(
          absl::StrCat("line ", i + 1, ": ", converted.status().message()));
    }
    absl::StrAppend(&out, *converted, "\n");
  }
  Print(out);
  return absl::OkStatus();
}

// Templates that know no parts leave them out; the server and generate join them before.
void WarnOfParts(const std::vector<Value>& messages, const std::string& path) {
  const bool has_parts = std::any_of(messages.begin(), messages.end(), [](const Value& message) {
    return message.Get("content").is_list();
  });
  if (!has_parts) return;
  LogWarning(absl::StrCat(path,
                          ": content in parts goes to the template as it is, and Qwen3's "
                          "leaves it out; generate and the server join the texts"));
}

// The template decides about everything else.
absl::Status CheckMessages(const std::string& json, const std::string& path) {
  const absl::StatusOr<Value> parsed = jinja::ParseJson(json);
  const bool is_list = parsed.ok() && parsed->is_list() && !parsed->list().items.empty();
  const std::vector<Value> messages = is_list ? parsed->list().items : std::vector<Value>();
  if (!is_list || !std::all_of(messages.begin(), messages.end(),
                               [](const Value& message) { return message.is_dict(); })) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, ": messages must be a JSON array of objects, at least one"));
  }
  WarnOfParts(messages, path);
  return absl::OkStatus();
}

// Ids of the model, padding included, if its configuration is there.
int32_t NumIds(const std::string& dir, const Tokenizer& tokenizer) {
  const auto config = LoadModelConfig(dir);
  return config.ok() ? std::max(config->vocab_size, tokenizer.vocab_size())
                     : tokenizer.vocab_size();
}

absl::Status ConvertMessages(const TokenizeJob& job) {
  ASSIGN_OR_RETURN(ChatFiles files, ReadChatFiles(job.flags.messages_path, job.flags.tools_path));
  if (!job.flags.tools_path.empty() && !jinja::ParseJson(files.tools).ok()) {
    return absl::InvalidArgumentError(absl::StrCat(job.flags.tools_path, ": not valid JSON"));
  }
  Conversation conversation{.messages_json = std::move(files.messages),
                            .tools_json = std::move(files.tools)};
  RETURN_IF_ERROR(CheckMessages(conversation.messages_json, job.flags.messages_path));
  conversation.add_generation_prompt = job.flags.generation_prompt;
  conversation.enable_thinking = job.flags.enable_thinking;
  conversation.normalize = false;
  if (job.flags.render) {
    ASSIGN_OR_RETURN(const std::string text, job.encoder.RenderChat(conversation));
    Print(text);
    return absl::OkStatus();
  }
  ASSIGN_OR_RETURN(const std::vector<int32_t> ids, job.encoder.EncodeChat(conversation));
  Print(IdsJson(ids) + "\n");
  return absl::OkStatus();
}

absl::Status Convert(const TokenizeJob& job) {
  if (!job.flags.messages_path.empty()) return ConvertMessages(job);
  if (job.flags.lines) return ConvertLines(job);
  const std::string input = ReadStdin();
  if (job.flags.decode) {
    ASSIGN_OR_RETURN(const std::string text, DecodeOne(job, input));
    Print(text);
    return absl::OkStatus();
  }
  ASSIGN_OR_RETURN(const std::string ids, EncodeOne(job, input));
  Print(ids + "\n");
  return absl::OkStatus();
}

}  // namespace

int RunTokenize(const Arguments& arguments) {
  OptionTable table("tessera tokenize", "DIR",
                    "Reads a text from stdin and prints its token ids as a JSON array.");
  TokenizeFlags flags;
  table.Flag("lines", &flags.lines, "Every input line is a JSON string; one id list per line.");
  table.Flag("decode", &flags.decode,
             "The other way: a JSON array of ids to text (to a JSON string with --lines).");
  table.Flag("parse-special-tokens", &flags.parse_special,
             "Control tokens spelled in the text become control tokens.");
  table.Flag("skip-special-tokens", &flags.skip_special, "With --decode: leave them out.");
  table.Section("Chat");
  table.Text("messages", &flags.messages_path,
             "JSON file with an array of messages to render instead of stdin.");
  table.Text("tools", &flags.tools_path, "JSON file with an array of tools.");
  AddChatTemplateOption(&table, &flags.chat_template);
  table.Flag("enable-thinking", &flags.enable_thinking,
             "Sets the template's switch; unset: the template's default.");
  table.Flag("generation-prompt", &flags.generation_prompt,
             "End with the header of the assistant's turn.");
  table.Flag("render", &flags.render, "Print the prompt's text instead of its ids.");
  std::vector<std::string> positional;
  if (const auto exit = ParseCommandLine(&table, "tokenize", arguments, &positional, 1)) {
    return *exit;
  }
  if (!flags.tools_path.empty() && flags.messages_path.empty()) {
    return FailUsage("tokenize", absl::InvalidArgumentError("--tools needs --messages"));
  }
  InitLogging("warning");
  if (const absl::Status folder = CheckModelFolder(positional[0]); !folder.ok()) {
    return Fail("tokenize", folder);
  }
  const auto text = LoadModelText(positional[0], {.chat_template = flags.chat_template});
  if (!text.ok()) return Fail("tokenize", text.status());
  const absl::Status status = Convert({.encoder = *text->encoder,
                                       .flags = flags,
                                       .num_ids = NumIds(positional[0], *text->tokenizer)});
  return status.ok() ? kExitOk : Fail("tokenize", status);
}

}  // namespace tessera
