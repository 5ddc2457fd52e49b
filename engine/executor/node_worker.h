// A node of a group other than the head: `tessera worker --join HEAD:PORT`.
#ifndef TESSERA_ENGINE_EXECUTOR_NODE_WORKER_H_
#define TESSERA_ENGINE_EXECUTOR_NODE_WORKER_H_

#include "absl/status/status.h"
#include "engine/executor/cluster_options.h"

namespace tessera {

// Joins the head, loads the slices of this node's ranks from its own model folder and runs steps
// until the head ends the group (OK) or the group fails: an error that says why, and after which
// the process should exit at once, because a rank that hangs is left behind.
absl::Status RunNodeWorker(const NodeOptions& options);

}  // namespace tessera

#endif  // TESSERA_ENGINE_EXECUTOR_NODE_WORKER_H_
