#include "parallel/cluster/handshake.h"

#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "kernels/core/status_macros.h"
#include "parallel/cluster/cluster_key.h"
#include "tessera/v1/cluster.pb.h"

namespace tessera {
namespace {

constexpr uint32_t kProtocolVersion = 1;
constexpr size_t kNonceBytes = 32;
constexpr size_t kMaxNameBytes = 128;

StreamKeys DeriveKeys(const std::string& key, const std::string& node_nonce,
                      const std::string& head_nonce) {
  return {.head_to_node = Mac(key, {"tessera stream head to node", node_nonce, head_nonce}),
          .node_to_head = Mac(key, {"tessera stream node to head", node_nonce, head_nonce})};
}

absl::Status Unreadable(const char* what) {
  return absl::InvalidArgumentError(absl::StrCat("its ", what, " cannot be read"));
}

// What a stranger sends ends up in a log: printable and short.
std::string Printable(const std::string& text) {
  return absl::CHexEscape(text.substr(0, kMaxNameBytes));
}

absl::Status Differs(absl::string_view what, absl::string_view node, absl::string_view head,
                     absl::string_view advice) {
  return absl::FailedPreconditionError(
      absl::StrCat("its ", what, " ", node, " differs from the head's ", head, ": ", advice));
}

std::string Short(const std::string& hash) { return absl::BytesToHexString(hash).substr(0, 12); }

absl::Status CheckModel(const v1::cluster::NodeFacts& node, const ModelIdentity& head) {
  const char* advice = "give both the same model folder";
  if (node.config_hash() != head.config_hash) {
    return Differs("config hash", Short(node.config_hash()), Short(head.config_hash), advice);
  }
  if (node.model_hash() != head.model_hash) {
    return Differs("model hash", Short(node.model_hash()), Short(head.model_hash), advice);
  }
  return absl::OkStatus();
}

}  // namespace

HeadHandshake::HeadHandshake(std::string key, ModelIdentity model, GroupSize size)
    : key_(std::move(key)), model_(std::move(model)), size_(size), head_nonce_(RandomNonce()) {}

StreamKeys HeadHandshake::keys() const { return DeriveKeys(key_, node_nonce_, head_nonce_); }

absl::StatusOr<std::string> HeadHandshake::OnHello(std::string_view bytes) {
  v1::cluster::Hello hello;
  if (!hello.ParseFromArray(bytes.data(), static_cast<int>(bytes.size())) ||
      hello.nonce().size() != kNonceBytes) {
    return Unreadable("greeting");
  }
  node_name_ = Printable(hello.node_name());
  node_nonce_ = hello.nonce();
  const char* advice = "install the same release on all nodes";
  if (hello.protocol_version() != kProtocolVersion) {
    return Differs("control protocol version", absl::StrCat(hello.protocol_version()),
                   absl::StrCat(kProtocolVersion), advice);
  }
  if (hello.software_version() != model_.software_version) {
    return Differs("version", Printable(hello.software_version()), model_.software_version, advice);
  }
  v1::cluster::GroupFacts facts;
  facts.set_software_version(model_.software_version);
  facts.set_num_nodes(size_.num_nodes);
  facts.set_world_size(size_.world_size);
  v1::cluster::Challenge challenge;
  challenge.set_nonce(head_nonce_);
  challenge.set_group_facts(facts.SerializeAsString());
  challenge.set_proof(
      Mac(key_, {"tessera head", node_nonce_, head_nonce_, challenge.group_facts()}));
  return challenge.SerializeAsString();
}

absl::StatusOr<int32_t> HeadHandshake::OnJoin(std::string_view bytes) {
  v1::cluster::Join join;
  v1::cluster::NodeFacts facts;
  if (!join.ParseFromArray(bytes.data(), static_cast<int>(bytes.size()))) {
    return Unreadable("request to join");
  }
  if (!SameBytes(join.proof(),
                 Mac(key_, {"tessera node", node_nonce_, head_nonce_, join.node_facts()}))) {
    return absl::PermissionDeniedError(
        "its proof does not match the cluster key: give all nodes the same key file");
  }
  if (!facts.ParseFromString(join.node_facts())) return Unreadable("description");
  if (facts.num_nodes() != size_.num_nodes || facts.world_size() != size_.world_size) {
    return Differs("group size", absl::StrCat(facts.num_nodes(), " x ", facts.world_size()),
                   absl::StrCat(size_.num_nodes, " x ", size_.world_size),
                   "something between the two changes messages");
  }
  RETURN_IF_ERROR(CheckModel(facts, model_));
  return facts.node_index();
}

NodeHandshake::NodeHandshake(std::string key, ModelIdentity model, std::string node_name,
                             int32_t node_index)
    : key_(std::move(key)),
      model_(std::move(model)),
      node_name_(std::move(node_name)),
      node_index_(node_index),
      node_nonce_(RandomNonce()) {}

StreamKeys NodeHandshake::keys() const { return DeriveKeys(key_, node_nonce_, head_nonce_); }

std::string NodeHandshake::Hello() const {
  v1::cluster::Hello hello;
  hello.set_protocol_version(kProtocolVersion);
  hello.set_software_version(model_.software_version);
  hello.set_node_name(node_name_.substr(0, kMaxNameBytes));
  hello.set_nonce(node_nonce_);
  return hello.SerializeAsString();
}

absl::StatusOr<std::string> NodeHandshake::OnChallenge(std::string_view bytes) {
  v1::cluster::Challenge challenge;
  v1::cluster::GroupFacts group;
  if (!challenge.ParseFromArray(bytes.data(), static_cast<int>(bytes.size())) ||
      challenge.nonce().size() != kNonceBytes) {
    return absl::InvalidArgumentError("the head's challenge cannot be read");
  }
  head_nonce_ = challenge.nonce();
  if (!SameBytes(challenge.proof(),
                 Mac(key_, {"tessera head", node_nonce_, head_nonce_, challenge.group_facts()}))) {
    return absl::PermissionDeniedError(
        "the head's proof does not match the cluster key: give all nodes the same key file");
  }
  if (!group.ParseFromString(challenge.group_facts())) {
    return absl::InvalidArgumentError("the head's description of the group cannot be read");
  }
  size_ = {.num_nodes = group.num_nodes(), .world_size = group.world_size()};
  v1::cluster::NodeFacts facts;
  facts.set_node_index(node_index_);
  facts.set_num_nodes(size_.num_nodes);
  facts.set_world_size(size_.world_size);
  facts.set_config_hash(model_.config_hash);
  facts.set_model_hash(model_.model_hash);
  v1::cluster::Join join;
  join.set_node_facts(facts.SerializeAsString());
  join.set_proof(Mac(key_, {"tessera node", node_nonce_, head_nonce_, join.node_facts()}));
  return join.SerializeAsString();
}

}  // namespace tessera
