// A node's end of the control plane.
#ifndef TESSERA_PARALLEL_CLUSTER_NODE_LINK_H_
#define TESSERA_PARALLEL_CLUSTER_NODE_LINK_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "parallel/cluster/control_stream_options.h"
#include "parallel/cluster/credentials.h"
#include "parallel/cluster/handshake.h"
#include "parallel/cluster/node_command.h"
#include "parallel/rendezvous_store.h"

namespace tessera {

struct NodeLinkOptions {
  std::string head_address;  // HOST:PORT
  std::string key;           // see ReadClusterKey
  ClusterTlsFiles tls;
  std::string node_name;    // for messages; empty: host name and process id
  int32_t node_index = -1;  // the place this node wants; -1: any
  ModelIdentity model;
  ControlStreamOptions stream;
  // Called once, on any thread, when the head or the group is gone.
  std::function<void(const absl::Status&)> on_failure;
};

// This node's place in the group.
struct NodePlace {
  GroupSize group;
  int32_t node_index = 0;
  int32_t first_rank = 0;  // world ranks, consecutive
  int32_t num_ranks = 0;
  std::string engine_options;
};

struct ReceivedCommand {
  uint64_t id = 0;
  NodeCommand command;
};

// Next: one thread. Everything else: any thread.
class NodeLink {
 public:
  // Tries until the deadline to reach a head; a refusal is final and says why.
  static absl::StatusOr<std::unique_ptr<NodeLink>> Join(NodeLinkOptions options,
                                                        absl::Time deadline);
  virtual ~NodeLink() = default;

  virtual const NodePlace& place() const = 0;
  // A head that says nothing for so long is gone; replaces the option of the stream.
  virtual void SetHeartbeatTimeout(absl::Duration timeout) = 0;
  // The next command in order; nullopt when the head has ended the group in order; an error when
  // the head is gone or the group has failed.
  virtual absl::StatusOr<std::optional<ReceivedCommand>> Next() = 0;
  virtual void Reply(uint64_t id, const absl::StatusOr<std::string>& payload) = 0;
  virtual void ReportLoadProgress(double share) = 0;
  // Tells the head that this node should stop: it may end the group in order.
  virtual void AskToStop() = 0;
  // Tells the head that this node cannot go on, which fails the group.
  virtual void Fail(const absl::Status& reason) = 0;
  virtual RendezvousStore& store() = 0;
};

}  // namespace tessera

#endif  // TESSERA_PARALLEL_CLUSTER_NODE_LINK_H_
