// Lines of a batch, its output file and the run between them.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <random>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "server/batch/answerer.h"
#include "server/batch/batch_line.h"
#include "server/batch/batch_output.h"
#include "server/batch/batch_run.h"
#include "server/batch/line_reader.h"

namespace tessera {
namespace {

using ::testing::HasSubstr;
using Json = nlohmann::json;

class TempFile {
 public:
  explicit TempFile(const std::string& text = "")
      : path_(absl::StrCat(::testing::TempDir(), "/batch_", getpid(), "_", ++num_files_)) {
    std::ofstream(path_, std::ios::binary) << text;
  }
  ~TempFile() { unlink(path_.c_str()); }
  const std::string& path() const { return path_; }
  std::string Read() const {
    std::ifstream file(path_, std::ios::binary);
    std::stringstream text;
    text << file.rdbuf();
    return text.str();
  }

 private:
  static inline int num_files_ = 0;
  std::string path_;
};

absl::StatusOr<BatchRequest> ReadLine(const std::string& text, std::string* id = nullptr) {
  jinja::Dict defaults;
  defaults.Set("max_tokens", jinja::Value::Int(7));
  std::string custom_id;
  return ReadBatchLine(text, 12, defaults, id == nullptr ? &custom_id : id);
}

TEST(BatchLineTest, EveryFormBecomesABody) {
  const auto whole = ReadLine(
      R"({"custom_id":"a","method":"POST","url":"/v1/completions","body":{"prompt":"x","max_tokens":3}})");
  ASSERT_TRUE(whole.ok()) << whole.status();
  EXPECT_EQ(whole->custom_id, "a");
  EXPECT_EQ(whole->kind, ApiKind::kCompletion);
  EXPECT_EQ(whole->body, R"({"prompt":"x","max_tokens":3})");

  const auto messages = ReadLine(R"({"messages":[{"role":"user","content":"é"}],"custom_id":"b"})");
  ASSERT_TRUE(messages.ok()) << messages.status();
  EXPECT_EQ(messages->custom_id, "b");
  EXPECT_EQ(messages->kind, ApiKind::kChat);
  EXPECT_EQ(messages->body, R"({"messages":[{"role":"user","content":"é"}],"max_tokens":7})");

  const auto prompt = ReadLine(R"({"prompt":[1,2]})");
  ASSERT_TRUE(prompt.ok()) << prompt.status();
  EXPECT_EQ(prompt->custom_id, "line-12");
  EXPECT_EQ(prompt->kind, ApiKind::kCompletion);

  const std::string chat = R"({"messages":[{"role":"user","content":"hi"}],"max_tokens":7})";
  for (const char* text : {R"("hi")", R"([{"role":"user","content":"hi"}])"}) {
    const auto bare = ReadLine(text);
    ASSERT_TRUE(bare.ok()) << bare.status();
    EXPECT_EQ(bare->kind, ApiKind::kChat);
    EXPECT_EQ(bare->body, chat);
  }
}

TEST(BatchLineTest, WhatIsWrongIsSaid) {
  const std::map<std::string, std::string> cases = {
      {"{", "JSON"},
      {"12", "a line is an object"},
      {"{}", "url is missing"},
      {R"({"url":"/v1/embeddings","body":{}})", "/v1/embeddings"},
      {R"({"url":"/v1/completions","method":"GET","body":{}})", "method"},
      {R"({"url":"/v1/completions"})", "body must be"},
      {R"({"url":"/v1/completions","body":[]})", "body must be"},
      {R"({"custom_id":3,"prompt":"x"})", "custom_id"},
      {R"({"prompt":"x","stream":true})", "stream"},
  };
  for (const auto& [text, problem] : cases) {
    const auto read = ReadLine(text);
    EXPECT_TRUE(absl::IsInvalidArgument(read.status())) << text;
    EXPECT_THAT(std::string(read.status().message()), HasSubstr(problem)) << text;
  }
  std::string id;
  EXPECT_FALSE(ReadLine(R"({"custom_id":"known","url":"/v1/completions"})", &id).ok());
  EXPECT_EQ(id, "known");
}

TEST(LineReaderTest, LinesOfAnyLengthAreBounded) {
  const std::string long_line(200'000, 'x');
  const TempFile file("one\n\n" + long_line + "\nlast");
  auto reader = LineReader::Open(file.path(), 100'000);
  ASSERT_TRUE(reader.ok());
  std::vector<LineReader::Line> lines;
  while (true) {
    auto line = reader->Next();
    ASSERT_TRUE(line.ok());
    if (!*line) break;
    lines.push_back(**line);
  }
  ASSERT_EQ(lines.size(), 4u);
  EXPECT_EQ(lines[0].text, "one");
  EXPECT_EQ(lines[1].text, "");
  EXPECT_TRUE(lines[2].is_too_long);
  EXPECT_EQ(lines[2].text.size(), 100'000u);
  EXPECT_TRUE(lines[2].is_whole);
  EXPECT_EQ(lines[3].text, "last");
  EXPECT_EQ(lines[3].number, 4);
  EXPECT_FALSE(lines[3].is_whole);
  EXPECT_FALSE(LineReader::Open(file.path() + ".none", 10).ok());
}

TEST(BatchOutputTest, TornAnswersAreCutOffAtEveryByte) {
  const TempFile file;
  std::string whole;
  for (const int line : {3, 1}) {
    whole += BatchAnswerLine({.line = line,
                              .custom_id = absl::StrCat("id \"", line, "\\"),
                              .http_status = 200,
                              .body = "{\"a\":\"é\"}"});
  }
  const size_t first = whole.find('\n') + 1;
  for (size_t size = 0; size <= whole.size(); ++size) {
    std::ofstream(file.path(), std::ios::binary) << whole.substr(0, size);
    const auto output = BatchOutput::Open(file.path());
    ASSERT_TRUE(output.ok()) << output.status();
    const size_t kept = size == whole.size() ? size : size >= first ? first : 0;
    EXPECT_EQ(file.Read(), whole.substr(0, kept)) << size;
    EXPECT_EQ(output->num_answered(), kept == 0 ? 0 : kept == first ? 1 : 2);
    EXPECT_EQ(*output->IsAnswered(3, "id \"3\\"), kept > 0);
    EXPECT_EQ(*output->IsAnswered(1, "id \"1\\"), kept == whole.size());
    EXPECT_FALSE(*output->IsAnswered(2, "x"));
    EXPECT_FALSE(*output->IsAnswered(9000, "x"));
    if (kept > 0) {
      EXPECT_THAT(std::string(output->IsAnswered(3, "other").status().message()),
                  HasSubstr("the input has changed"));
    }
  }
}

TEST(BatchOutputTest, OtherFilesStayAsTheyAre) {
  for (const std::string text :
       {"important notes", "important notes\n", "{\"id\":\"batch_req_0\"}\n"}) {
    const TempFile file(text);
    const auto output = BatchOutput::Open(file.path());
    EXPECT_TRUE(absl::IsFailedPrecondition(output.status())) << text;
    EXPECT_EQ(file.Read(), text);
  }
  const std::string line = BatchAnswerLine({.line = 5, .custom_id = "a", .body = "bad"});
  const TempFile twice(line + line);
  EXPECT_THAT(std::string(BatchOutput::Open(twice.path()).status().message()),
              HasSubstr("a second answer to line 5"));
  const TempFile shared;
  const auto first = BatchOutput::Open(shared.path());
  ASSERT_TRUE(first.ok());
  EXPECT_THAT(std::string(BatchOutput::Open(shared.path()).status().message()),
              HasSubstr("another process"));
  EXPECT_FALSE(BatchOutput::Open(::testing::TempDir()).ok());
}

// Answers with the body that was asked, until it is told to fail.
class FakeAnswerer final : public Answerer {
 public:
  explicit FakeAnswerer(int64_t answers) : left_(answers) {}

  absl::StatusOr<BatchAnswer> Answer(int64_t line, const BatchRequest& request) override {
    const int now = ++now_;
    int most = most_;
    while (most < now && !most_.compare_exchange_weak(most, now)) continue;
    const bool fails = left_.fetch_sub(1) <= 0;
    --now_;
    if (fails) return absl::UnavailableError("gone");
    return BatchAnswer{.line = line,
                       .custom_id = request.custom_id,
                       .http_status = absl::StrContains(request.body, "bad") ? 400 : 200,
                       .body = request.body,
                       .output_tokens = 2};
  }
  int most() const { return most_; }

 private:
  std::atomic<int64_t> left_;
  std::atomic<int> now_{0};
  std::atomic<int> most_{0};
};

struct RunResult {
  absl::Status status;
  BatchProgress progress;
};

RunResult RunOn(const TempFile& input, const TempFile& output, int64_t answers,
                std::vector<std::string>* problems = nullptr) {
  const jinja::Dict defaults;
  BatchOptions options{.input = input.path(), .concurrency = 4, .defaults = &defaults};
  if (problems != nullptr) {
    options.on_failure = [problems](int64_t, const std::string& problem) {
      problems->push_back(problem);
    };
  }
  FakeAnswerer answerer(answers);
  auto opened = BatchOutput::Open(output.path());
  RunResult result{.status = opened.status()};
  if (opened.ok()) result.status = RunBatch(options, &answerer, &*opened, &result.progress);
  EXPECT_LE(answerer.most(), 4);
  return result;
}

TEST(BatchRunTest, RunsThatAreEndedAnywhereTogetherAnswerEveryLineOnce) {
  const uint64_t seed = std::random_device()();
  SCOPED_TRACE(absl::StrCat("seed ", seed));
  std::mt19937_64 random(seed);
  std::string text = "\n";  // blank lines count as lines, and are none
  std::set<std::string> wanted;
  for (int i = 0; i < 120; ++i) {
    const std::string id = absl::StrCat("id-", i);
    wanted.insert(id);
    absl::StrAppend(&text, R"({"custom_id":")", id, R"(","prompt":")", i % 10 == 0 ? "bad" : "ok",
                    "\"}", i % 7 == 0 ? "\r\n\n" : "\n");
  }
  text.pop_back();
  const TempFile input(text);
  const TempFile output;
  int64_t before = 0;
  for (int run = 0;; ++run) {
    ASSERT_LT(run, 500);
    const auto answers = static_cast<int64_t>(random() % 12);
    const RunResult result = RunOn(input, output, answers);
    EXPECT_EQ(result.progress.lines, 120);
    const int64_t done = result.progress.answered + result.progress.failed;
    EXPECT_EQ(done, std::min(answers, 120 - before));
    before += done;
    if (result.status.ok()) {
      EXPECT_EQ(result.progress.earlier + done, 120);
      break;
    }
    EXPECT_THAT(std::string(result.status.message()), HasSubstr("gone"));
    EXPECT_THAT(std::string(result.status.message()), HasSubstr("line "));
    // What a kill in the middle of a write leaves behind.
    const std::string torn = BatchAnswerLine({.line = 1, .custom_id = "x", .body = "y"});
    std::ofstream(output.path(), std::ios::app | std::ios::binary)
        << torn.substr(0, random() % torn.size());
  }
  std::set<std::string> found;
  for (const auto line : absl::StrSplit(output.Read(), '\n', absl::SkipEmpty())) {
    const Json json = Json::parse(line);
    EXPECT_TRUE(found.insert(json["custom_id"]).second) << line;
    EXPECT_EQ(json["response"]["status_code"],
              json["response"]["body"]["prompt"] == "bad" ? 400 : 200);
    EXPECT_TRUE(json["error"].is_null());
  }
  EXPECT_EQ(found, wanted);
  EXPECT_EQ(RunOn(input, output, 0).progress.earlier, 120);
}

TEST(BatchRunTest, LinesThatCannotBeReadAreAnsweredWithTheirNumber) {
  const TempFile input(
      "{\"prompt\":\"x\"}\nnonsense\n{\"custom_id\":\"a\",\"prompt\":\"1\"}\n"
      "{\"custom_id\":\"a\",\"prompt\":\"2\"}\n");
  const TempFile output;
  std::vector<std::string> problems;
  const RunResult result = RunOn(input, output, 100, &problems);
  ASSERT_TRUE(result.status.ok()) << result.status;
  EXPECT_EQ(result.progress.answered, 2);
  EXPECT_EQ(result.progress.failed, 2);
  EXPECT_EQ(result.progress.output_tokens, 4);
  std::sort(problems.begin(), problems.end());
  ASSERT_EQ(problems.size(), 2u);
  EXPECT_THAT(problems[0], HasSubstr("line 2: the line is"));
  EXPECT_THAT(problems[1], HasSubstr("line 4: an earlier line has the custom_id \"a\""));
  for (const auto line : absl::StrSplit(output.Read(), '\n', absl::SkipEmpty())) {
    const Json json = Json::parse(line);
    EXPECT_EQ(json["response"].is_null(), !json["error"].is_null());
  }
  const RunResult again = RunOn(input, output, 0);
  EXPECT_TRUE(again.status.ok()) << again.status;
  EXPECT_EQ(again.progress.earlier, 4);
}

TEST(BatchRunTest, ChangedInputAndOneFileForBothAreRefused) {
  const TempFile input("{\"custom_id\":\"a\",\"prompt\":\"x\"}\n");
  const TempFile output;
  ASSERT_TRUE(RunOn(input, output, 1).status.ok());
  const TempFile other("{\"custom_id\":\"b\",\"prompt\":\"x\"}\n");
  EXPECT_THAT(std::string(RunOn(other, output, 1).status.message()),
              HasSubstr("the input has changed"));
  EXPECT_THAT(std::string(RunOn(output, output, 1).status.message()), HasSubstr("same file"));
}

}  // namespace
}  // namespace tessera
