#include "server/ask/ask.h"

#include <algorithm>
#include <atomic>
#include <thread>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "kernels/core/status_macros.h"

namespace tessera {
namespace {

constexpr char kReadRule[] =
    "Answer the question from the passage alone, in one or two sentences. If the passage does not "
    "answer it, reply with the one word NONE.";
constexpr char kComposeRule[] =
    "Answer the question from the notes alone. Behind every statement write the number of its note "
    "in brackets, as [1]. Notes may be wrong about what is asked: use those that fit.";
constexpr char kNothing[] = "none";

v1::GenerateRequest ChatRequest(const std::string& system, const std::string& user,
                                int64_t max_tokens) {
  v1::GenerateRequest request;
  const auto add = [&request](const char* role, const std::string& content) {
    v1::ChatMessage* message = request.mutable_chat()->add_messages();
    message->set_role(role);
    message->set_content(content);
  };
  add("system", system);
  add("user", user);
  request.mutable_sampling()->set_temperature(0);
  request.mutable_stopping()->set_max_tokens(max_tokens);
  request.mutable_reasoning()->set_mode(v1::ReasoningOptions::MODE_NO_THINK);
  request.mutable_response()->set_token_ids(false);
  return request;
}

absl::StatusOr<std::string> AnswerTo(TextGenerator* generator, const v1::GenerateRequest& request) {
  ASSIGN_OR_RETURN(const v1::GenerateResponse response, Generate(*generator, request));
  if (response.choices_size() == 0) return std::string();
  return std::string(absl::StripAsciiWhitespace(response.choices(0).text()));
}

// What a passage that says nothing is answered with, in the ways that models write it.
bool SaysNothing(const std::string& text) {
  const std::string lower = absl::AsciiStrToLower(text);
  const size_t begin = lower.find_first_not_of(" \"'*.");
  return begin == std::string::npos ||
         (absl::StartsWith(lower.substr(begin), kNothing) && lower.size() < begin + 8);
}

// Reads the passages of `notes`, several at a time, and fills in their texts.
class Reader {
 public:
  Reader(TextGenerator* generator, const AskOptions& options, std::vector<PassageNote>* notes)
      : generator_(generator), options_(options), notes_(*notes) {}

  absl::Status Read(const std::function<v1::GenerateRequest(const PassageNote&)>& request_of) {
    std::vector<std::thread> threads;
    const auto count = std::min(static_cast<size_t>(options_.concurrency), notes_.size());
    for (size_t i = 0; i < count; ++i) threads.emplace_back([&] { Work(request_of); });
    for (std::thread& thread : threads) thread.join();
    absl::MutexLock lock(&mutex_);
    return error_;
  }

 private:
  void Work(const std::function<v1::GenerateRequest(const PassageNote&)>& request_of) {
    for (size_t at = next_++; at < notes_.size(); at = next_++) {
      absl::StatusOr<std::string> text = AnswerTo(generator_, request_of(notes_[at]));
      absl::MutexLock lock(&mutex_);
      if (!text.ok()) {
        if (error_.ok()) error_ = text.status();
        return;
      }
      if (!SaysNothing(*text)) notes_[at].text = *std::move(text);
      ++done_;
      if (options_.on_progress) options_.on_progress(done_, static_cast<int32_t>(notes_.size()));
    }
  }

  TextGenerator* const generator_;
  const AskOptions& options_;
  std::vector<PassageNote>& notes_;  // each entry is written by the thread that took it
  std::atomic<size_t> next_{0};
  absl::Mutex mutex_;
  absl::Status error_ ABSL_GUARDED_BY(mutex_);
  int32_t done_ ABSL_GUARDED_BY(mutex_) = 0;
};

absl::Status Compose(TextGenerator* generator, const std::string& question,
                     const AskOptions& options, AskAnswer* answer) {
  std::vector<int32_t> useful;  // passages
  std::string notes;
  const PassageNote* only = nullptr;
  for (const PassageNote& note : answer->notes) {
    if (note.text.empty()) continue;
    useful.push_back(note.passage);
    only = &note;
    absl::StrAppend(&notes, "[", useful.size(), "] ", note.text, "\n");
  }
  if (useful.empty()) return absl::OkStatus();
  if (useful.size() == 1) {
    answer->text = only->text;
    answer->sources = useful;
    return absl::OkStatus();
  }
  ASSIGN_OR_RETURN(
      answer->text,
      AnswerTo(generator,
               ChatRequest(kComposeRule, absl::StrCat("Notes:\n", notes, "\nQuestion: ", question),
                           options.max_answer_tokens)));
  for (const int32_t number : CitedNumbers(answer->text, static_cast<int32_t>(useful.size()))) {
    answer->sources.push_back(useful[static_cast<size_t>(number - 1)]);
  }
  if (answer->sources.empty()) answer->sources = useful;
  return absl::OkStatus();
}

}  // namespace

std::vector<int32_t> CitedNumbers(const std::string& text, int32_t most) {
  std::vector<int32_t> numbers;
  int64_t number = -1;  // -1: not in brackets
  for (const char c : text) {
    if (c == '[') {
      number = 0;
    } else if (number >= 0 && c >= '0' && c <= '9') {
      number = std::min<int64_t>(10 * number + (c - '0'), int64_t{most} + 1);
    } else if (number >= 0 && (c == ']' || c == ',')) {
      if (number >= 1 && number <= most) numbers.push_back(static_cast<int32_t>(number));
      number = c == ',' ? 0 : -1;
    } else if (c != ' ') {
      number = -1;
    }
  }
  std::sort(numbers.begin(), numbers.end());
  numbers.erase(std::unique(numbers.begin(), numbers.end()), numbers.end());
  return numbers;
}

absl::StatusOr<AskAnswer> Ask(TextGenerator* generator, const std::vector<Document>& documents,
                              const std::vector<Passage>& passages, const PassageIndex& index,
                              const std::string& question, const AskOptions& options) {
  AskAnswer answer;
  for (const PassageIndex::Hit& hit : index.Find(question, static_cast<size_t>(options.passages))) {
    answer.notes.push_back({.passage = hit.passage, .score = hit.score});
  }
  Reader reader(generator, options, &answer.notes);
  RETURN_IF_ERROR(reader.Read([&](const PassageNote& note) {
    const Passage& passage = passages[static_cast<size_t>(note.passage)];
    return ChatRequest(kReadRule,
                       absl::StrCat("Passage (", PlaceText(documents, passage), "):\n",
                                    passage.text, "\n\nQuestion: ", question),
                       options.max_answer_tokens);
  }));
  RETURN_IF_ERROR(Compose(generator, question, options, &answer));
  return answer;
}

}  // namespace tessera
