// tessera worker: one more node of a group.
#include <cstdlib>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "engine/executor/node_worker.h"
#include "server/commands/cluster_flags.h"
#include "server/commands/command.h"
#include "server/logging.h"
#include "server/model_runtime.h"
#include "server/signals.h"

namespace tessera {
namespace {

// The head drains when the whole group is asked to stop, and when a node asks it to.
void OnWorkerSignal(int count, absl::Duration patience, NodeStop* stop) {
  if (count > 1) {
    LogWarning("second signal: leaving the group");
    FlushLog();
    std::_Exit(kExitFailure);
  }
  if (!stop->Ask()) {
    LogInfo("stopped before it served");
    FlushLog();
    std::_Exit(kExitOk);
  }
  LogInfo("stopping: the head finishes the running requests and ends the group");
  std::thread([patience] {
    absl::SleepFor(patience);
    FailAtOnce("worker", absl::DeadlineExceededError(absl::StrCat(
                             "the head has not ended the group within ",
                             absl::FormatDuration(patience), " (see --drain-timeout)")));
  }).detach();
}

}  // namespace

int RunWorker(const Arguments& arguments) {
  OptionTable table(
      "tessera worker", "MODEL",
      "Runs the ranks of one node of a group whose head is \"tessera serve --nodes N\" (or "
      "generate,\nscore, bench). MODEL is this node's copy of the model folder. How to run it, "
      "the head tells.\nExits with the head: 0 when it ends in order, 1 when the group fails. "
      "SIGTERM asks the head to drain and end the group.");
  NodeOptions options;
  std::string log_level = "info";
  std::string log_format = "text";
  absl::Duration drain_timeout = absl::Seconds(180);
  AddNodeOptions(&table, &options);
  table.Seconds(
      "drain-timeout", &drain_timeout, 0,
      "After SIGTERM: how long the head, which is told and finishes the running requests, "
      "may take to end the group, in seconds.");
  table.Choice("log-level", &log_level, {"debug", "info", "warning", "error"},
               "Log lines of this level and above go to stderr.");
  AddLogFormatOption(&table, &log_format);
  std::vector<std::string> positional;
  if (const auto exit = ParseCommandLine(&table, "worker", arguments, &positional, 1)) {
    return *exit;
  }
  if (const absl::Status status = CheckNodeOptions(options); !status.ok()) {
    return FailUsage("worker", status);
  }
  options.model_dir = positional[0];
  InitLogging(log_level, ParseLogFormat(log_format));
  NodeStop stop;
  const SignalWatcher signals(
      [&stop, drain_timeout](int count) { OnWorkerSignal(count, drain_timeout, &stop); });
  CompleteAccess(&options.access);
  absl::Status status = CheckModelFolder(options.model_dir);
  if (status.ok()) status = RunNodeWorker(options, &stop);
  if (status.ok()) return kExitOk;
  if (stop.asked()) {
    LogInfo(absl::StrCat("stopped: ", status.message()));
    FlushLog();
    std::_Exit(kExitOk);  // a rank that hangs may have been left behind
  }
  FailAtOnce("worker", status);
}

}  // namespace tessera
