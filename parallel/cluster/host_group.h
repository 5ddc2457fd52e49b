// The head's end of the control plane: lets nodes join, sends them commands, gathers what they
// answer, notices when one is gone, and keeps the rendezvous store.
#ifndef TESSERA_PARALLEL_CLUSTER_HOST_GROUP_H_
#define TESSERA_PARALLEL_CLUSTER_HOST_GROUP_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "parallel/cluster/control_stream_options.h"
#include "parallel/cluster/credentials.h"
#include "parallel/cluster/handshake.h"
#include "parallel/cluster/node_command.h"
#include "parallel/rendezvous_store.h"

namespace tessera {

struct HostGroupOptions {
  std::string address = "127.0.0.1:0";  // HOST:PORT or INTERFACE:PORT; port 0: any free one
  std::string key;                      // see ReadClusterKey
  ClusterTlsFiles tls;
  GroupSize size;  // nodes share the ranks evenly; the head is node 0
  ModelIdentity model;
  std::string engine_options;  // handed to every node that joins
  ControlStreamOptions stream;
  // One line each, for an operator. Any thread; must not block.
  std::function<void(std::string_view)> log;
  // Called once, on any thread, when the group fails.
  std::function<void(const absl::Status&)> on_failure;
  // A node was asked to stop and waits for the end of the group. Any thread; must not block.
  std::function<void()> on_stop_asked;
};

// Any thread. Failure is sticky and tells every node to exit: UNAVAILABLE names the node that is
// gone.
class HostGroup {
 public:
  // Starts to listen. Strangers are refused and logged once, whatever they send.
  static absl::StatusOr<std::unique_ptr<HostGroup>> Listen(HostGroupOptions options);
  virtual ~HostGroup() = default;  // ends the group; on_failure is not called any more

  virtual const std::string& address() const = 0;  // numeric HOST:PORT
  // DEADLINE_EXCEEDED tells how many nodes are missing.
  virtual absl::Status WaitForNodes(absl::Time deadline) = 0;
  // Sends a command to every node; never blocks. The result is for Gather.
  virtual uint64_t Broadcast(const NodeCommand& command) = 0;
  // Every node's answer, in the order of nodes (index 0 of the result is node 1). The error of a
  // node that could not do it names the node.
  virtual absl::StatusOr<std::vector<std::string>> Gather(uint64_t id, absl::Time deadline) = 0;
  // The slowest node's share of its weights that is loaded.
  virtual double load_progress() const = 0;
  virtual RendezvousStore& store() = 0;
  // Fails the group; on_failure is called if it has not failed before.
  virtual void Abort(const absl::Status& reason) = 0;
  // Ends the group in order: nodes exit with success.
  virtual void Shutdown(absl::Time deadline) = 0;
};

}  // namespace tessera

#endif  // TESSERA_PARALLEL_CLUSTER_HOST_GROUP_H_
