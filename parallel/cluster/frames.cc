#include "parallel/cluster/frames.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "parallel/cluster/cluster_key.h"

namespace tessera {
namespace {

std::string FrameMac(const std::string& key, const v1::cluster::Frame& frame) {
  const uint64_t sequence = frame.sequence();
  const std::string_view number(reinterpret_cast<const char*>(&sequence), sizeof(sequence));
  return Mac(key, {number, frame.more() ? "more" : "last", frame.body()});
}

}  // namespace

std::vector<v1::cluster::Frame> FrameSealer::Seal(std::string_view message) {
  std::vector<v1::cluster::Frame> frames;
  do {
    const std::string_view body = message.substr(0, kMaxFrameBody);
    message.remove_prefix(body.size());
    v1::cluster::Frame& frame = frames.emplace_back();
    frame.set_sequence(sequence_++);
    frame.set_body(body.data(), body.size());
    frame.set_more(!message.empty());
    if (!key_.empty()) frame.set_mac(FrameMac(key_, frame));
  } while (!message.empty());
  return frames;
}

absl::StatusOr<std::optional<std::string>> FrameOpener::Open(const v1::cluster::Frame& frame) {
  if (frame.body().size() > kMaxFrameBody) {
    return absl::InvalidArgumentError(absl::StrCat("a frame of ", frame.body().size(), " bytes"));
  }
  if (frame.sequence() != sequence_) {
    return absl::InvalidArgumentError(absl::StrCat("frame ", frame.sequence(), " instead of ",
                                                   sequence_, ": repeated, lost or reordered"));
  }
  if (!key_.empty() && !SameBytes(frame.mac(), FrameMac(key_, frame))) {
    return absl::InvalidArgumentError(absl::StrCat("frame ", sequence_, " is not authentic"));
  }
  const size_t limit = key_.empty() ? kMaxHandshakeMessage : max_message_bytes_;
  if (partial_.size() + frame.body().size() > limit || (key_.empty() && frame.more())) {
    return absl::InvalidArgumentError(absl::StrCat("a message of more than ", limit, " bytes"));
  }
  ++sequence_;
  partial_.append(frame.body());
  if (frame.more()) return std::nullopt;
  return std::exchange(partial_, {});
}

}  // namespace tessera
