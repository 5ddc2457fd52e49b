// Whatever bytes a stranger or a peer sends on a control stream, they are refused or understood.
// The first byte chooses: the rest is a message of a stranger, or it damages one message of a
// conversation with somebody who has the key.
#include <array>
#include <cstdint>
#include <string>
#include <string_view>

#include "kernels/core/status_macros.h"
#include "parallel/cluster/frames.h"
#include "parallel/cluster/handshake.h"
#include "tessera/v1/cluster.pb.h"
#include "tests/fuzz/damage.h"

namespace {

using tessera::Damaged;
using tessera::HeadHandshake;
using tessera::NodeHandshake;

constexpr char kKey[] = "0123456789abcdef0123456789abcdef";
constexpr size_t kMaxMessage = 1 << 16;

tessera::ModelIdentity Model() {
  return {.software_version = "1", .config_hash = "config", .model_hash = "model"};
}

void ReadAsAnything(const std::string& bytes) {
  tessera::v1::cluster::Frame frame;
  if (frame.ParseFromString(bytes)) {
    tessera::FrameOpener clear(kMaxMessage);
    tessera::FrameOpener sealed(kMaxMessage);
    sealed.SetKey(kKey);
    clear.Open(frame).IgnoreError();
    sealed.Open(frame).IgnoreError();
  }
  tessera::v1::cluster::HeadMessage from_head;
  tessera::v1::cluster::NodeMessage from_node;
  static_cast<void>(from_head.ParseFromString(bytes));
  static_cast<void>(from_node.ParseFromString(bytes));
}

void MeetStranger(const std::string& bytes) {
  HeadHandshake head(kKey, Model(), {.num_nodes = 2, .world_size = 4});
  NodeHandshake node(kKey, Model(), "node", -1);
  if (!head.OnHello(bytes).ok()) head.OnHello(node.Hello()).IgnoreError();
  head.OnJoin(bytes).IgnoreError();
  node.OnChallenge(bytes).IgnoreError();
  ReadAsAnything(bytes);
}

// `target`: which of the three messages is damaged. An undamaged conversation succeeds.
void ShakeHands(int target, std::string_view edits) {
  std::array<std::string_view, 3> damage;
  damage[target] = edits;
  HeadHandshake head(kKey, Model(), {.num_nodes = 2, .world_size = 4});
  NodeHandshake node(kKey, Model(), "node", 1);
  const auto challenge = head.OnHello(Damaged(node.Hello(), damage[0]));
  if (!challenge.ok()) return;
  const auto join = node.OnChallenge(Damaged(*challenge, damage[1]));
  if (!join.ok()) return;
  const auto index = head.OnJoin(Damaged(*join, damage[2]));
  TESSERA_CHECK(index.ok() || edits.size() >= 3);
}

// A peer's sealed message, damaged on its way: read as it was sent, or not at all.
void Converse(std::string_view text, std::string_view edits) {
  tessera::FrameSealer sealer;
  tessera::FrameOpener opener(kMaxMessage);
  sealer.SetKey(kKey);
  opener.SetKey(kKey);
  for (const auto& frame : sealer.Seal(text)) {
    const std::string bytes = frame.SerializeAsString();
    tessera::v1::cluster::Frame received;
    if (!received.ParseFromString(Damaged(bytes, edits))) return;
    const auto message = opener.Open(received);
    if (!message.ok()) return;
    if (message->has_value()) TESSERA_CHECK(**message == text);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const std::string_view input(reinterpret_cast<const char*>(data) + 1, size - 1);
  enum : uint8_t { kStranger, kHello, kChallenge, kJoin, kSealed, kNumKinds };
  const uint8_t kind = data[0] % kNumKinds;
  if (kind == kStranger) {
    MeetStranger(std::string(input));
  } else if (kind == kSealed) {
    const size_t length = input.empty() ? 0 : static_cast<uint8_t>(input[0]);
    Converse(input.substr(0, length), input.size() > length ? input.substr(length) : "");
  } else {
    ShakeHands(kind - kHello, input);
  }
  return 0;
}
