// Options of the nodes of one group: commands with `--nodes`, which are heads, and `tessera
// worker`.
#ifndef TESSERA_SERVER_COMMANDS_CLUSTER_FLAGS_H_
#define TESSERA_SERVER_COMMANDS_CLUSTER_FLAGS_H_

#include <string>

#include "absl/status/status.h"
#include "engine/executor/cluster_options.h"
#include "server/logging.h"
#include "server/model_runtime.h"
#include "server/option_table.h"

namespace tessera {

// Head and step timeout.
void AddHeadOptions(OptionTable* table, RuntimeOptions* options);
void AddNodeOptions(OptionTable* table, NodeOptions* node);

// InvalidArgument names the option that is missing.
absl::Status CheckHeadOptions(const HeadOptions& head);
absl::Status CheckNodeOptions(const NodeOptions& node);

// --log-format of commands that run for long.
void AddLogFormatOption(OptionTable* table, std::string* format);
LogFormat ParseLogFormat(const std::string& format);

// Starts logging for commands that answer in this process: warnings, and with several nodes also
// how they find each other.
void InitHeadLogging(const HeadOptions& head);
// What is the same for every process: the version that peers compare, and log lines.
void CompleteAccess(ClusterAccess* access);

}  // namespace tessera

#endif  // TESSERA_SERVER_COMMANDS_CLUSTER_FLAGS_H_
