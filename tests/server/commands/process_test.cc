// The tessera binary as users run it: exit codes, output, ready file, signals.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"

namespace tessera {
namespace {

using ::testing::HasSubstr;
using Json = nlohmann::json;

std::string ReadFile(const std::string& path) {
  std::ifstream file(path);
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

// A running tessera; its output goes to files.
class Process {
 public:
  explicit Process(std::vector<std::string> arguments, const std::string& input = "")
      : base_(absl::StrCat(::testing::TempDir(), "/process_", getpid(), "_", ++num_processes_)) {
    std::ofstream(base_ + ".in") << input;
    arguments.insert(arguments.begin(), TESSERA_BINARY);
    std::vector<char*> argv;
    for (std::string& argument : arguments) argv.push_back(argument.data());
    argv.push_back(nullptr);
    posix_spawn_file_actions_t files;
    posix_spawn_file_actions_init(&files);
    posix_spawn_file_actions_addopen(&files, 0, (base_ + ".in").c_str(), O_RDONLY, 0);
    constexpr int kWrite = O_WRONLY | O_CREAT | O_TRUNC;
    posix_spawn_file_actions_addopen(&files, 1, (base_ + ".out").c_str(), kWrite, 0600);
    posix_spawn_file_actions_addopen(&files, 2, (base_ + ".err").c_str(), kWrite, 0600);
    EXPECT_EQ(posix_spawn(&pid_, TESSERA_BINARY, &files, nullptr, argv.data(), environ), 0);
    posix_spawn_file_actions_destroy(&files);
  }
  ~Process() {
    if (pid_ > 0) {
      kill(pid_, SIGKILL);
      Wait();
    }
    for (const char* suffix : {".in", ".out", ".err"}) unlink((base_ + suffix).c_str());
  }

  // The exit code; -1 when a signal ended it.
  int Wait() {
    int status = 0;
    waitpid(pid_, &status, 0);
    pid_ = 0;
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  }
  void Signal(int signal) const { kill(pid_, signal); }
  bool IsRunning() const { return waitpid(pid_, nullptr, WNOHANG) == 0; }
  pid_t pid() const { return pid_; }
  std::string out() const { return ReadFile(base_ + ".out"); }
  std::string err() const { return ReadFile(base_ + ".err"); }

 private:
  static int num_processes_;
  const std::string base_;
  pid_t pid_ = 0;
};
int Process::num_processes_ = 0;

// A server on free ports.
class Server {
 public:
  Server()
      : ready_(absl::StrCat(::testing::TempDir(), "/ready_", getpid(), ".json")),
        process_({"serve", TESSERA_NANO_MODEL, "--port=0", "--metrics-port=0", "--dtype=float32",
                  "--kv-cache-memory=32MiB", "--ready-file", ready_}) {
    const absl::Time deadline = absl::Now() + absl::Seconds(60);
    while (access(ready_.c_str(), R_OK) != 0 && process_.IsRunning() && absl::Now() < deadline) {
      absl::SleepFor(absl::Milliseconds(20));
    }
    facts_ = Json::parse(ReadFile(ready_), nullptr, false);
    EXPECT_TRUE(facts_.is_object()) << process_.err();
  }
  ~Server() { unlink(ready_.c_str()); }

  std::string address() const { return absl::StrCat("127.0.0.1:", facts_["grpc_port"].get<int>()); }
  const Json& facts() const { return facts_; }
  Process& process() { return process_; }

 private:
  std::string ready_;
  Process process_;
  Json facts_;
};

TEST(ProcessTest, UsageErrorsExitWithTwo) {
  const std::vector<std::vector<std::string>> lines = {
      {},
      {"srve"},
      {"generate"},
      {"generate", TESSERA_NANO_MODEL},
      {"generate", TESSERA_NANO_MODEL, "--prompt", "a", "--chat", "b"},
      {"serve", TESSERA_NANO_MODEL, "--prot=1"},
      {"serve", TESSERA_NANO_MODEL, "--port=65536"},
      {"score", TESSERA_NANO_MODEL},
      {"bench", "speed", TESSERA_NANO_MODEL},
      {"version", "surplus"}};
  for (const auto& line : lines) {
    Process process(line);
    EXPECT_EQ(process.Wait(), 2) << ::testing::PrintToString(line);
    EXPECT_EQ(process.out(), "");
    EXPECT_NE(process.err(), "");
  }
}

TEST(ProcessTest, FailuresExitWithOneAndSayWhy) {
  Process missing({"serve", "/no/such/model"});
  EXPECT_EQ(missing.Wait(), 1);
  EXPECT_THAT(missing.err(), HasSubstr("/no/such/model does not exist"));
  Process id({"score", TESSERA_NANO_MODEL, "--token-ids", "99999"});
  EXPECT_EQ(id.Wait(), 1);
  EXPECT_THAT(id.err(), HasSubstr("[0, 1728)"));
  Process check({"check", "/no/such/model", "--json"});
  EXPECT_EQ(check.Wait(), 1);
  EXPECT_EQ(Json::parse(check.out())["ok"], false);
}

TEST(ProcessTest, EveryCommandExplainsItself) {
  for (const char* command :
       {"serve", "generate", "chat", "client", "score", "tokenize", "check", "bench", "version"}) {
    Process process({command, "--help"});
    EXPECT_EQ(process.Wait(), 0) << command;
    EXPECT_THAT(process.out(), HasSubstr(absl::StrCat("Usage: tessera ", command)));
  }
}

TEST(ProcessTest, TokenizeRoundTrip) {
  Process encode({"tokenize", TESSERA_NANO_MODEL}, "What is 44?");
  EXPECT_EQ(encode.Wait(), 0);
  EXPECT_EQ(encode.out(), "[473, 312, 220, 19, 19, 30]\n");
  Process decode({"tokenize", TESSERA_NANO_MODEL, "--decode"}, encode.out());
  EXPECT_EQ(decode.Wait(), 0);
  EXPECT_EQ(decode.out(), "What is 44?");
  Process lines({"tokenize", TESSERA_NANO_MODEL, "--lines"}, "\"a<|im_end|>\"\n\"\"\n");
  EXPECT_EQ(lines.Wait(), 0);
  EXPECT_EQ(lines.out(), "[64, 1647]\n[]\n");
  Process wrong({"tokenize", TESSERA_NANO_MODEL, "--lines"}, "\"a\"\nb\n");
  EXPECT_EQ(wrong.Wait(), 1);
  EXPECT_THAT(wrong.err(), HasSubstr("line 2"));
}

TEST(ProcessTest, TokenizeRendersMessages) {
  const std::string path = absl::StrCat(::testing::TempDir(), "/messages.json");
  std::ofstream(path) << R"([{"role": "user", "content": "Hello"}])";
  Process render(
      {"tokenize", TESSERA_NANO_MODEL, "--messages", path, "--render", "--enable-thinking=false"});
  EXPECT_EQ(render.Wait(), 0);
  EXPECT_EQ(render.out(),
            "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n");
  Process bare(
      {"tokenize", TESSERA_NANO_MODEL, "--messages", path, "--render", "--no-generation-prompt"});
  EXPECT_EQ(bare.Wait(), 0);
  EXPECT_EQ(bare.out(), "<|im_start|>user\nHello<|im_end|>\n");
}

TEST(ProcessTest, ScoreHasEveryValue) {
  Process process({"score", TESSERA_NANO_MODEL, "--token-ids", "1646,277,198,473",
                   "--dtype=float32", "--json"});
  ASSERT_EQ(process.Wait(), 0) << process.err();
  const Json json = Json::parse(process.out());
  EXPECT_EQ(json["logprobs"].size(), 3U);
  EXPECT_EQ(json["argmax"].size(), 4U);
  EXPECT_EQ(json["last_logits"].size(), 1728U);
  EXPECT_NEAR(json["nll"], 1.0616, 0.001);
}

TEST(ProcessTest, ServesUntilTheFirstSignal) {
  Server server;
  ASSERT_TRUE(server.facts().is_object());
  EXPECT_EQ(server.facts()["pid"], server.process().pid());
  const std::vector<std::string> question = {"--chat", "What is 12 + 30?", "--temperature=0",
                                             "--json"};
  std::vector<std::string> line = {"client", server.address()};
  line.insert(line.end(), question.begin(), question.end());
  Process client(line);
  ASSERT_EQ(client.Wait(), 0) << client.err();
  line = {"generate", TESSERA_NANO_MODEL, "--dtype=float32"};
  line.insert(line.end(), question.begin(), question.end());
  Process local(line);
  ASSERT_EQ(local.Wait(), 0) << local.err();
  EXPECT_EQ(Json::parse(client.out())["token_ids"], Json::parse(local.out())["token_ids"]);
  EXPECT_EQ(Json::parse(local.out())["text"], "42");

  Process chat({"chat", server.address(), "--temperature=0"}, "What is 3 + 4?\n/exit\n");
  EXPECT_EQ(chat.Wait(), 0) << chat.err();
  EXPECT_THAT(chat.out(), HasSubstr("</think>\n\n7\n"));

  Process busy({"serve", TESSERA_NANO_MODEL, "--metrics-port=0", "--http-port=0",
                absl::StrCat("--port=", server.facts()["grpc_port"].get<int>())});
  EXPECT_EQ(busy.Wait(), 1);
  EXPECT_THAT(busy.err(), HasSubstr("--port"));

  server.process().Signal(SIGTERM);
  EXPECT_EQ(server.process().Wait(), 0) << server.process().err();
}

TEST(ProcessTest, TheSecondSignalEndsRunningRequests) {
  Server server;
  ASSERT_TRUE(server.facts().is_object());
  std::vector<std::unique_ptr<Process>> clients;
  for (int i = 0; i < 8; ++i) {
    clients.push_back(std::make_unique<Process>(std::vector<std::string>{
        "client", server.address(), "--prompt=a", "--ignore-eos", "--max-tokens=3000"}));
  }
  for (const auto& client : clients) {
    const absl::Time deadline = absl::Now() + absl::Seconds(30);
    while (client->out().empty() && absl::Now() < deadline) {
      absl::SleepFor(absl::Milliseconds(5));
    }
  }
  server.process().Signal(SIGTERM);
  absl::SleepFor(absl::Milliseconds(150));  // or both are the same wish
  const absl::Time second = absl::Now();
  server.process().Signal(SIGTERM);
  EXPECT_EQ(server.process().Wait(), 0) << server.process().err();
  EXPECT_LT(absl::Now() - second, absl::Seconds(5));
  for (const auto& client : clients) {
    EXPECT_EQ(client->Wait(), 1);
    EXPECT_THAT(client->err(), HasSubstr("the server stops"));
  }
}

}  // namespace
}  // namespace tessera
