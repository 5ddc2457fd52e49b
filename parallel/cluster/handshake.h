// Who may join a group: both ends prove that they know the shared key and that they mean the same
// group, the same program and the same model. Messages only, no I/O; see cluster.proto.
#ifndef TESSERA_PARALLEL_CLUSTER_HANDSHAKE_H_
#define TESSERA_PARALLEL_CLUSTER_HANDSHAKE_H_

#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace tessera {

// What must be the same on all nodes. Hashes are raw bytes.
struct ModelIdentity {
  std::string software_version;
  std::string config_hash;
  std::string model_hash;
};

struct GroupSize {
  int32_t num_nodes = 1;
  int32_t world_size = 1;
};

// One key per direction of one stream.
struct StreamKeys {
  std::string head_to_node;
  std::string node_to_head;
};

// The head's side of one handshake: OnHello, then OnJoin.
class HeadHandshake {
 public:
  HeadHandshake(std::string key, ModelIdentity model, GroupSize size);

  // The Challenge to send. INVALID_ARGUMENT when the message cannot be read, FAILED_PRECONDITION
  // when the node runs another version.
  absl::StatusOr<std::string> OnHello(std::string_view hello);
  // The place the node wants (-1: any). PERMISSION_DENIED for a wrong key or a replay,
  // FAILED_PRECONDITION when the node has another model.
  absl::StatusOr<int32_t> OnJoin(std::string_view join);
  StreamKeys keys() const;
  // As the node calls itself; printable, "?" before its Hello.
  const std::string& node_name() const { return node_name_; }

 private:
  const std::string key_;
  const ModelIdentity model_;
  const GroupSize size_;
  const std::string head_nonce_;
  std::string node_nonce_;
  std::string node_name_ = "?";
};

// The node's side: Hello, OnChallenge.
class NodeHandshake {
 public:
  NodeHandshake(std::string key, ModelIdentity model, std::string node_name, int32_t node_index);

  std::string Hello() const;
  // The Join to send. PERMISSION_DENIED when the head does not know the key.
  absl::StatusOr<std::string> OnChallenge(std::string_view challenge);
  StreamKeys keys() const;
  GroupSize size() const { return size_; }

 private:
  const std::string key_;
  const ModelIdentity model_;
  const std::string node_name_;
  const int32_t node_index_;
  const std::string node_nonce_;
  std::string head_nonce_;
  GroupSize size_;
};

}  // namespace tessera

#endif  // TESSERA_PARALLEL_CLUSTER_HANDSHAKE_H_
