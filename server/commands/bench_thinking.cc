#include "server/commands/bench_thinking.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "kernels/core/status_macros.h"
#include "kernels/core/text_file.h"
#include "server/commands/cluster_flags.h"
#include "server/commands/engine_flags.h"
#include "server/http/openai/api_request.h"
#include "server/text_generator.h"

namespace tessera {
namespace {

using Json = nlohmann::ordered_json;
using Mode = v1::ReasoningOptions::Mode;

constexpr int64_t kMaxFileBytes = 64 << 20;
constexpr int kThreads = 32;
constexpr std::array<std::pair<const char*, Mode>, 3> kModes = {{
    {"think", v1::ReasoningOptions::MODE_THINK},
    {"auto", v1::ReasoningOptions::MODE_AUTO},
    {"no_think", v1::ReasoningOptions::MODE_NO_THINK},
}};

struct Chat {
  v1::GenerateRequest request;
  std::string answer;
};

struct Score {
  int right = 0;
  int thought = 0;  // chats
  int64_t tokens = 0;
  std::map<std::string, std::pair<int, int>> by_reason;  // of AUTO: chats and right answers
};

// Chats keep the arguments of calls as objects, requests as text.
void WriteArguments(Json* messages) {
  for (Json& message : *messages) {
    if (!message.contains("tool_calls") || !message["tool_calls"].is_array()) continue;
    for (Json& call : message["tool_calls"]) {
      Json& arguments = call["function"]["arguments"];
      if (arguments.is_object()) arguments = arguments.dump();
    }
  }
}

absl::StatusOr<Chat> ReadChat(absl::string_view line) {
  Json json = Json::parse(line, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object() || !json.contains("messages") || !json["messages"].is_array() ||
      !json.contains("answer") || !json["answer"].is_string()) {
    return absl::InvalidArgumentError("a line needs \"messages\" and an \"answer\"");
  }
  WriteArguments(&json["messages"]);
  Json body = {{"messages", json["messages"]}, {"temperature", 0}};
  if (json.contains("tools") && json["tools"].is_array()) body["tools"] = json["tools"];
  ASSIGN_OR_RETURN(ApiRequest read, ReadChatRequest(body.dump()));
  return Chat{.request = std::move(read.prompts.front()),
              .answer = json["answer"].get<std::string>()};
}

absl::StatusOr<std::vector<Chat>> ReadChats(const std::string& path) {
  ASSIGN_OR_RETURN(const std::string text, ReadTextFile(path, kMaxFileBytes));
  std::vector<Chat> chats;
  int number = 0;
  for (const absl::string_view line : absl::StrSplit(text, '\n')) {
    ++number;
    if (absl::StripAsciiWhitespace(line).empty()) continue;
    absl::StatusOr<Chat> chat = ReadChat(line);
    if (!chat.ok()) {
      return absl::InvalidArgumentError(
          absl::StrCat(path, ", line ", number, ": ", chat.status().message()));
    }
    chats.push_back(*std::move(chat));
  }
  if (chats.empty()) return absl::InvalidArgumentError(absl::StrCat(path, " has no chats"));
  return chats;
}

// An answer that is a call is compared by what it says, not by its blanks.
bool IsRight(const v1::Choice& choice, const std::string& answer) {
  if (choice.tool_calls_size() == 0) {
    return absl::StripAsciiWhitespace(choice.text()) == absl::StripAsciiWhitespace(answer);
  }
  const size_t begin = answer.find('{');
  const size_t end = answer.rfind('}');
  if (begin == std::string::npos || end == std::string::npos) return false;
  const Json wanted = Json::parse(answer.substr(begin, end - begin + 1), nullptr, false);
  const v1::ToolCall& call = choice.tool_calls(0);
  const Json given = {{"name", call.name()},
                      {"arguments", Json::parse(call.arguments(), nullptr, false)}};
  return choice.tool_calls_size() == 1 && nlohmann::json(given) == nlohmann::json(wanted);
}

void Count(const v1::GenerateResponse& response, const std::string& answer, Score* score) {
  const bool is_right = response.choices_size() == 1 && IsRight(response.choices(0), answer);
  score->right += is_right ? 1 : 0;
  score->thought += response.usage().reasoning_tokens() > 0 ? 1 : 0;
  score->tokens += response.usage().completion_tokens();
  if (!response.has_thinking()) return;
  auto& [chats, right] =
      score->by_reason[v1::ThinkingChoice::Reason_Name(response.thinking().reason())];
  ++chats;
  right += is_right ? 1 : 0;
}

absl::StatusOr<Score> Measure(TextGenerator* generator, const std::vector<Chat>& chats, Mode mode) {
  std::vector<absl::StatusOr<v1::GenerateResponse>> responses(chats.size(), absl::UnknownError(""));
  std::atomic<size_t> next{0};
  std::vector<std::thread> threads;
  for (int i = 0; i < kThreads; ++i) {
    threads.emplace_back([&] {
      for (size_t at = next++; at < chats.size(); at = next++) {
        v1::GenerateRequest request = chats[at].request;
        request.mutable_reasoning()->set_mode(mode);
        responses[at] = Generate(*generator, request);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  Score score;
  for (size_t i = 0; i < chats.size(); ++i) {
    RETURN_IF_ERROR(responses[i].status());
    Count(*responses[i], chats[i].answer, &score);
  }
  return score;
}

std::string Lower(const std::string& reason) {
  return absl::AsciiStrToLower(reason.substr(std::string("REASON_").size()));
}

std::string TextOf(const std::vector<Score>& scores, size_t num_chats) {
  std::string text = absl::StrFormat("%d chats\n%-10s %8s %9s %8s %8s\n", num_chats, "mode",
                                     "right", "accuracy", "thought", "tokens");
  for (size_t i = 0; i < scores.size(); ++i) {
    absl::StrAppendFormat(&text, "%-10s %8d %8.1f%% %8d %8d  %.0f%% of think's\n", kModes[i].first,
                          scores[i].right, 100.0 * scores[i].right / static_cast<double>(num_chats),
                          scores[i].thought, scores[i].tokens,
                          100.0 * static_cast<double>(scores[i].tokens) /
                              static_cast<double>(std::max<int64_t>(1, scores[0].tokens)));
  }
  text += "auto by what decided:\n";
  for (const auto& [reason, counts] : scores[1].by_reason) {
    absl::StrAppendFormat(&text, "  %-12s %d of %d right\n", Lower(reason), counts.second,
                          counts.first);
  }
  return text;
}

std::string JsonOf(const std::vector<Score>& scores, size_t num_chats) {
  Json json = {{"chats", num_chats}};
  for (size_t i = 0; i < scores.size(); ++i) {
    json[kModes[i].first] = {
        {"right", scores[i].right}, {"thought", scores[i].thought}, {"tokens", scores[i].tokens}};
  }
  for (const auto& [reason, counts] : scores[1].by_reason) {
    json["auto"]["by_reason"][Lower(reason)] = {{"chats", counts.first}, {"right", counts.second}};
  }
  return json.dump() + "\n";
}

}  // namespace

int RunBenchThinking(const Arguments& arguments) {
  OptionTable table("tessera bench thinking", "MODEL",
                    "Answers chats with known answers three times: always thinking, as AUTO "
                    "chooses, and never thinking.");
  RuntimeOptions options;
  std::string path;
  bool json = false;
  table.Flag("json", &json, "Print the result as JSON.");
  table.Text("chats", &path,
             "File with a line {\"messages\", \"tools\", \"answer\"} for each chat; empty: "
             "MODEL/heldout.jsonl.");
  AddChatTemplateOption(&table, &options.chat_template);
  AddModelOptions(&table, &options.engine);
  AddHeadOptions(&table, &options);
  std::vector<std::string> positional;
  if (const auto exit = ParseCommandLine(&table, "bench", arguments, &positional, 1)) return *exit;
  if (const absl::Status status = CheckHeadOptions(options.head); !status.ok()) {
    return FailUsage("bench", status);
  }
  const auto chats = ReadChats(path.empty() ? positional[0] + "/heldout.jsonl" : path);
  if (!chats.ok()) return Fail("bench", chats.status());
  InitHeadLogging(options.head);
  CompleteAccess(&options.head.access);
  options.engine.model.model_dir = positional[0];
  const auto runtime = LoadRuntime(options);
  if (!runtime.ok()) return Fail("bench", runtime.status());
  const auto generator = MakeLocalGenerator(runtime->get());
  std::vector<Score> scores;
  for (const auto& [name, mode] : kModes) {
    const auto score = Measure(generator.get(), *chats, mode);
    if (!score.ok()) FailAtOnce("bench", score.status());
    scores.push_back(*score);
  }
  Print(json ? JsonOf(scores, chats->size()) : TextOf(scores, chats->size()));
  return kExitOk;
}

}  // namespace tessera
