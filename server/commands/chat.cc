// tessera chat: a conversation in the terminal.
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/commands/command.h"
#include "server/commands/engine_flags.h"
#include "server/commands/generation_flags.h"
#include "server/commands/target_flags.h"
#include "server/grpc/client_channel.h"
#include "server/grpc/remote_generator.h"
#include "server/logging.h"
#include "server/model_runtime.h"
#include "server/text_generator.h"

namespace tessera {
namespace {

// Set by Ctrl-C; stops the reply that is being written.
std::atomic<bool> g_interrupted{false};
static_assert(std::atomic<bool>::is_always_lock_free, "a signal handler sets it");

void OnInterrupt(int) { g_interrupted.store(true); }

void CatchInterrupts() {
  struct sigaction action = {};
  action.sa_handler = &OnInterrupt;  // without SA_RESTART: a pending read returns
  sigaction(SIGINT, &action, nullptr);
}

// One line without its end; false at the end of the input. Ctrl-C gives an empty line.
bool ReadLine(std::string* line) {
  line->clear();
  while (true) {
    const int c = std::getc(stdin);
    if (c == EOF && errno == EINTR && g_interrupted.exchange(false)) {
      std::clearerr(stdin);
      line->clear();
      return true;
    }
    if (c == EOF) return !line->empty();
    if (c == '\n') return true;
    line->push_back(static_cast<char>(c));
  }
}

class Dialogue {
 public:
  Dialogue(TextGenerator* generator, v1::GenerateRequest request)
      : generator_(*generator), request_(std::move(request)) {}

  // False ends the program.
  bool Handle(const std::string& line) {
    if (line == "/exit" || line == "/quit") return false;
    if (line == "/clear") {
      request_.mutable_chat()->clear_messages();
    } else if (line == "/think" || line == "/no_think") {
      request_.mutable_reasoning()->set_mode(line == "/think"
                                                 ? v1::ReasoningOptions::MODE_THINK
                                                 : v1::ReasoningOptions::MODE_NO_THINK);
    } else if (!line.empty()) {
      Ask(line);
    }
    return true;
  }

 private:
  void AddMessage(const std::string& role, const std::string& content) {
    v1::ChatMessage* message = request_.mutable_chat()->add_messages();
    message->set_role(role);
    message->set_content(content);
  }

  void Ask(const std::string& line) {
    AddMessage("user", line);
    g_interrupted = false;
    v1::GenerateResponse reply;
    const absl::Status status = generator_.Stream(
        request_,
        [&](const v1::GenerateResponse& delta) {
          MergeOutput(delta, &reply);
          for (const v1::Choice& choice : delta.choices()) Show(choice);
        },
        &g_interrupted);
    EndThinking();
    Print("\n");
    if (!status.ok() && !absl::IsCancelled(status)) {
      Fail("chat", status);
      request_.mutable_chat()->mutable_messages()->RemoveLast();
      return;
    }
    g_interrupted = false;
    AddMessage("assistant", reply.choices_size() > 0 ? reply.choices(0).text() : "");
  }

  // Reasoning is dimmed on a terminal and bracketed elsewhere.
  void Show(const v1::Choice& choice) {
    if (!choice.reasoning().empty()) {
      if (!thinking_) Print(is_terminal_ ? "\033[2m" : "<think>\n");
      thinking_ = true;
      Print(choice.reasoning());
    }
    if (!choice.text().empty()) {
      EndThinking();
      Print(choice.text());
    }
    for (const v1::ToolCall& call : choice.tool_calls()) {
      EndThinking();
      Print((call.name().empty() ? "" : absl::StrCat("\n[call] ", call.name(), " ")) +
            call.arguments());
    }
  }

  void EndThinking() {
    if (thinking_) Print(is_terminal_ ? "\033[0m\n\n" : "\n</think>\n\n");
    thinking_ = false;
  }

  TextGenerator& generator_;
  v1::GenerateRequest request_;
  const bool is_terminal_ = isatty(STDOUT_FILENO) != 0;
  bool thinking_ = false;
};

void Talk(TextGenerator* generator, v1::GenerateRequest request) {
  const bool is_interactive = isatty(STDIN_FILENO) != 0;
  if (is_interactive) {
    Print(
        "Ctrl-C stops a reply; /think and /no_think switch thinking, /clear forgets, /exit "
        "ends.\n");
  }
  CatchInterrupts();
  Dialogue dialogue(generator, std::move(request));
  std::string line;
  while (true) {
    if (is_interactive) Print("\n> ");
    if (!ReadLine(&line) || !dialogue.Handle(line)) return;
  }
}

}  // namespace

int RunChat(const Arguments& arguments) {
  OptionTable table("tessera chat", "MODEL|HOST:PORT|unix:PATH",
                    "Talks to the model in the folder MODEL, or to a running server.");
  GenerationFlags flags;
  EngineOptions options;
  ServerTarget server;
  table.Text("system", &flags.system, "System message.");
  AddTargetOptions(&table, &server);
  AddSamplingOptions(&table, &flags);
  AddModelOptions(&table, &options);
  std::vector<std::string> positional;
  if (const auto exit = ParseCommandLine(&table, "chat", arguments, &positional, 1)) return *exit;
  auto request = ChatRequest(flags);
  if (!request.ok()) return FailUsage("chat", request.status());
  const std::string& target = positional[0];
  const bool is_address = !CheckModelFolder(target).ok() && CheckServerAddress(target).ok();
  InitLogging("warning");
  if (is_address) {
    server.address = target;
    const auto generator = MakeRemoteGenerator({.server = server});
    if (!generator.ok()) return Fail("chat", generator.status());
    Talk(generator->get(), *std::move(request));
    return kExitOk;
  }
  options.model.model_dir = target;
  const auto runtime = LoadRuntime({.engine = options});
  if (!runtime.ok()) return Fail("chat", runtime.status());
  const std::unique_ptr<TextGenerator> generator = MakeLocalGenerator(runtime->get());
  Talk(generator.get(), *std::move(request));
  if (!(*runtime)->engine().stats().alive) {
    FailAtOnce("chat", absl::UnavailableError("the engine has failed"));
  }
  return kExitOk;
}

}  // namespace tessera
