// Options of the nodes of one group: `tessera serve --nodes` and `tessera worker`.
#ifndef TESSERA_SERVER_COMMANDS_CLUSTER_FLAGS_H_
#define TESSERA_SERVER_COMMANDS_CLUSTER_FLAGS_H_

#include "absl/status/status.h"
#include "engine/executor/cluster_options.h"
#include "server/options.h"

namespace tessera {

void AddHeadOptions(OptionTable* table, HeadOptions* head);
void AddNodeOptions(OptionTable* table, NodeOptions* node);

// InvalidArgument names the option that is missing.
absl::Status CheckHeadOptions(const HeadOptions& head);
absl::Status CheckNodeOptions(const NodeOptions& node);

// What is the same for every process: the version that peers compare, and log lines.
void CompleteAccess(ClusterAccess* access);

}  // namespace tessera

#endif  // TESSERA_SERVER_COMMANDS_CLUSTER_FLAGS_H_
