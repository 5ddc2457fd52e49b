// A node of a group other than the head: `tessera worker --join HEAD:PORT`.
#ifndef TESSERA_ENGINE_EXECUTOR_NODE_WORKER_H_
#define TESSERA_ENGINE_EXECUTOR_NODE_WORKER_H_

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "engine/executor/cluster_options.h"
#include "parallel/cluster/node_link.h"

namespace tessera {

// How other threads ask a running worker to stop.
class NodeStop {
 public:
  // True: the head has been told and should end the group. False: the node does not serve yet, and
  // the process may leave at once.
  bool Ask();
  // Whether Ask() was called in time: the group's end, whatever it is, is what was wanted.
  bool asked() const;

  // Of the worker, once it serves; null at its end.
  void Attach(NodeLink* link);

 private:
  mutable absl::Mutex mutex_;
  NodeLink* link_ ABSL_GUARDED_BY(mutex_) = nullptr;
  bool asked_ ABSL_GUARDED_BY(mutex_) = false;
};

// Joins the head, loads the slices of this node's ranks from its own model folder and runs steps
// until the head ends the group (OK) or the group fails: an error that says why, and after which
// the process should exit at once, because a rank that hangs is left behind. `stop` may be null.
absl::Status RunNodeWorker(const NodeOptions& options, NodeStop* stop = nullptr);

}  // namespace tessera

#endif  // TESSERA_ENGINE_EXECUTOR_NODE_WORKER_H_
