// Picks a command.
#include <array>
#include <csignal>
#include <cstdio>
#include <exception>
#include <string>
#include <string_view>
#include <vector>

#include "absl/synchronization/mutex.h"
#include "server/commands/command.h"
#include "server/did_you_mean.h"

namespace tessera {
namespace {

struct Command {
  const char* name;
  const char* summary;
  int (*run)(const Arguments&);
};

constexpr auto kCommands = std::to_array<Command>({
    {"serve", "serve a model over gRPC", &RunServe},
    {"worker", "run ranks of a model that another process serves", &RunWorker},
    {"generate", "answer one prompt without a server", &RunGenerate},
    {"chat", "talk to a model or to a running server", &RunChat},
    {"client", "answer one prompt through a running server", &RunClient},
    {"ask", "answer a question from documents", &RunAsk},
    {"batch", "answer a file of requests, each once", &RunBatchFile},
    {"score", "log probabilities of a token sequence", &RunScore},
    {"tokenize", "text or chat messages to token ids and back", &RunTokenize},
    {"check", "what a model folder holds and what is wrong with it", &RunCheck},
    {"bench", "measure latency, throughput or a running server", &RunBench},
    {"doctor", "what is wrong with a running server, and what to do", &RunDoctor},
    {"plan", "which layout of a model fits on which GPUs, and how fast", &RunPlan},
    {"quantize", "write a model with int8, int4 or FP8 weights", &RunQuantize},
    {"keys", "make, list and remove the API keys of a server", &RunKeys},
    {"version", "print the version", &RunVersion},
});

std::string Usage() {
  std::string text = "Usage: tessera COMMAND [arguments]\n\nCommands:\n";
  for (const Command& command : kCommands) {
    std::string line = std::string("  ") + command.name;
    line.resize(14, ' ');
    text += line + command.summary + "\n";
  }
  return text + "\n\"tessera COMMAND --help\" explains a command.\n";
}

int Main(const std::vector<std::string>& arguments) {
  const std::string name = arguments.empty() ? "" : arguments[0];
  if (name == "--help" || name == "-h" || name == "help") {
    Print(Usage());
    return kExitOk;
  }
  if (name == "--version") return RunVersion({});
  for (const Command& command : kCommands) {
    if (name == command.name) return command.run({arguments.begin() + 1, arguments.end()});
  }
  std::string problem;
  if (!name.empty()) {
    std::vector<std::string> known;
    for (const Command& command : kCommands) known.emplace_back(command.name);
    problem = "tessera: unknown command \"" + name + "\"" + DidYouMean(name, known) + "\n\n";
  }
  std::fputs((problem + Usage()).c_str(), stderr);
  return kExitUsage;
}

// A server that is told to stop in its first moments is not killed for it: SignalWatcher takes the
// signals once it is there.
void HoldSignals(int argc, char** argv, char** /*environment*/) {
  if (argc < 2) return;
  const std::string_view command = argv[1];
  if (command != "serve" && command != "worker") return;
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGINT);
  sigaddset(&signals, SIGTERM);
  if (command == "serve") sigaddset(&signals, SIGHUP);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
}

// Libraries take some milliseconds to initialise; this comes before them.
__attribute__((section(".preinit_array"), used)) void (*const hold_signals)(int, char**,
                                                                            char**) = &HoldSignals;

}  // namespace
}  // namespace tessera

int main(int argc, char** argv) {
  // Debian's Abseil looks for lock cycles in every Lock(), under a lock of the whole process. The
  // tests keep that check.
  absl::SetMutexDeadlockDetectionMode(absl::OnDeadlockCycle::kIgnore);
  try {
    return tessera::Main(std::vector<std::string>(argv + 1, argv + argc));
  } catch (const std::exception& error) {  // out of memory, most likely
    std::fprintf(stderr, "tessera: %s\n", error.what());
    return tessera::kExitFailure;
  }
}
