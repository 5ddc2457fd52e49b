// Whatever bytes a stranger or a peer sends on a control stream, they are refused or understood.
#include <cstdint>
#include <string>
#include <string_view>

#include "parallel/cluster/frames.h"
#include "parallel/cluster/handshake.h"
#include "tessera/v1/cluster.pb.h"

namespace {

constexpr char kKey[] = "0123456789abcdef0123456789abcdef";

tessera::ModelIdentity Model() {
  return {.software_version = "1", .config_hash = "config", .model_hash = "model"};
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string bytes(reinterpret_cast<const char*>(data), size);
  tessera::HeadHandshake head(kKey, Model(), {.num_nodes = 2, .world_size = 4});
  tessera::NodeHandshake node(kKey, Model(), "node", -1);
  if (!head.OnHello(bytes).ok()) head.OnHello(node.Hello()).IgnoreError();
  head.OnJoin(bytes).IgnoreError();
  node.OnChallenge(bytes).IgnoreError();

  tessera::v1::cluster::Frame frame;
  if (frame.ParseFromString(bytes)) {
    tessera::FrameOpener clear(1 << 16);
    tessera::FrameOpener sealed(1 << 16);
    sealed.SetKey(kKey);
    clear.Open(frame).IgnoreError();
    sealed.Open(frame).IgnoreError();
  }
  tessera::v1::cluster::HeadMessage from_head;
  tessera::v1::cluster::NodeMessage from_node;
  static_cast<void>(from_head.ParseFromString(bytes));
  static_cast<void>(from_node.ParseFromString(bytes));
  return 0;
}
