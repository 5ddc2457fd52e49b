// tessera tokenize: text, lines or chat messages to token ids and back; needs no weights.
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "engine/checkpoint/text_file.h"
#include "kernels/core/status_macros.h"
#include "server/commands/command.h"
#include "server/commands/response_json.h"
#include "server/model_prompt_encoder.h"
#include "server/model_runtime.h"

namespace tessera {
namespace {

using Json = nlohmann::json;

constexpr int64_t kMaxFileBytes = 64 << 20;

struct TokenizeFlags {
  bool lines = false;
  bool decode = false;
  bool parse_special = true;
  bool skip_special = false;
  bool render = false;
  bool generation_prompt = true;
  std::string messages_path;
  std::string tools_path;
  std::optional<bool> enable_thinking;
};

absl::StatusOr<std::string> EncodeOne(const PromptEncoder& encoder, const TokenizeFlags& flags,
                                      const std::string& text) {
  return IdsJson(encoder.EncodeText(text, flags.parse_special));
}

// `json`: an array of ids.
absl::StatusOr<std::string> DecodeOne(const PromptEncoder& encoder, const TokenizeFlags& flags,
                                      const std::string& json) {
  const Json parsed = Json::parse(json, nullptr, /*allow_exceptions=*/false);
  if (!parsed.is_array()) return absl::InvalidArgumentError("input must be a JSON array of ids");
  std::vector<int32_t> ids;
  for (const Json& id : parsed) {
    if (!id.is_number_integer() || id < INT32_MIN || id > INT32_MAX) {
      return absl::InvalidArgumentError(absl::StrCat("not a token id: ", id.dump()));
    }
    ids.push_back(id.get<int32_t>());
  }
  return encoder.Decode(ids, flags.skip_special);
}

absl::StatusOr<std::string> ConvertLine(const PromptEncoder& encoder, const TokenizeFlags& flags,
                                        const std::string& line) {
  if (flags.decode) {
    ASSIGN_OR_RETURN(const std::string text, DecodeOne(encoder, flags, line));
    return TextJson(text);
  }
  const Json parsed = Json::parse(line, nullptr, /*allow_exceptions=*/false);
  if (!parsed.is_string()) return absl::InvalidArgumentError("every line must be a JSON string");
  return EncodeOne(encoder, flags, parsed.get<std::string>());
}

absl::Status ConvertLines(const PromptEncoder& encoder, const TokenizeFlags& flags) {
  std::vector<std::string> lines = absl::StrSplit(ReadStdin(), '\n');
  if (!lines.empty() && lines.back().empty()) lines.pop_back();
  std::string out;
  for (size_t i = 0; i < lines.size(); ++i) {
    const auto converted = ConvertLine(encoder, flags, lines[i]);
    if (!converted.ok()) {
      return absl::InvalidArgumentError(
          absl::StrCat("line ", i + 1, ": ", converted.status().message()));
    }
    absl::StrAppend(&out, *converted, "\n");
  }
  Print(out);
  return absl::OkStatus();
}

absl::Status ConvertMessages(const PromptEncoder& encoder, const TokenizeFlags& flags) {
  Conversation conversation;
  ASSIGN_OR_RETURN(conversation.messages_json, ReadTextFile(flags.messages_path, kMaxFileBytes));
  if (!flags.tools_path.empty()) {
    ASSIGN_OR_RETURN(conversation.tools_json, ReadTextFile(flags.tools_path, kMaxFileBytes));
  }
  conversation.add_generation_prompt = flags.generation_prompt;
  conversation.enable_thinking = flags.enable_thinking;
  conversation.normalize = false;
  if (flags.render) {
    ASSIGN_OR_RETURN(const std::string text, encoder.RenderChat(conversation));
    Print(text);
    return absl::OkStatus();
  }
  ASSIGN_OR_RETURN(const std::vector<int32_t> ids, encoder.EncodeChat(conversation));
  Print(IdsJson(ids) + "\n");
  return absl::OkStatus();
}

absl::Status Convert(const PromptEncoder& encoder, const TokenizeFlags& flags) {
  if (!flags.messages_path.empty()) return ConvertMessages(encoder, flags);
  if (flags.lines) return ConvertLines(encoder, flags);
  const std::string input = ReadStdin();
  if (flags.decode) {
    ASSIGN_OR_RETURN(const std::string text, DecodeOne(encoder, flags, input));
    Print(text);
    return absl::OkStatus();
  }
  ASSIGN_OR_RETURN(const std::string ids, EncodeOne(encoder, flags, input));
  Print(ids + "\n");
  return absl::OkStatus();
}

}  // namespace

int RunTokenize(const Arguments& arguments) {
  OptionTable table("tokenize", "DIR",
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
  if (const absl::Status folder = CheckModelFolder(positional[0]); !folder.ok()) {
    return Fail("tokenize", folder);
  }
  const auto text = LoadModelText(positional[0]);
  if (!text.ok()) return Fail("tokenize", text.status());
  const absl::Status status = Convert(*text->encoder, flags);
  return status.ok() ? kExitOk : Fail("tokenize", status);
}

}  // namespace tessera
