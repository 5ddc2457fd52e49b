// tessera worker: one more node of a group.
#include "engine/executor/node_worker.h"
#include "server/commands/cluster_flags.h"
#include "server/commands/command.h"
#include "server/logging.h"
#include "server/model_runtime.h"

namespace tessera {

int RunWorker(const Arguments& arguments) {
  OptionTable table(
      "tessera worker", "MODEL",
      "Runs the ranks of one node of a group whose head is \"tessera serve --nodes N\" (or "
      "generate,\nscore, bench). MODEL is this node's copy of the model folder. How to run it, "
      "the head tells.\nExits with the head: 0 when it ends in order, 1 when the group fails.");
  NodeOptions options;
  std::string log_level = "info";
  AddNodeOptions(&table, &options);
  table.Choice("log-level", &log_level, {"debug", "info", "warning", "error"},
               "Log lines of this level and above go to stderr.");
  std::vector<std::string> positional;
  if (const auto exit = ParseCommandLine(&table, "worker", arguments, &positional, 1)) {
    return *exit;
  }
  if (const absl::Status status = CheckNodeOptions(options); !status.ok()) {
    return FailUsage("worker", status);
  }
  options.model_dir = positional[0];
  InitLogging(log_level);
  CompleteAccess(&options.access);
  absl::Status status = CheckModelFolder(options.model_dir);
  if (status.ok()) status = RunNodeWorker(options);
  if (status.ok()) return kExitOk;
  FailAtOnce("worker", status);
}

}  // namespace tessera
