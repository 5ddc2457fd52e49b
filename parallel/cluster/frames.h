// Messages as frames: cut into pieces, numbered and, after the handshake, authenticated.
#ifndef TESSERA_PARALLEL_CLUSTER_FRAMES_H_
#define TESSERA_PARALLEL_CLUSTER_FRAMES_H_

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "tessera/v1/cluster.pb.h"

namespace tessera {

constexpr size_t kMaxFrameBody = size_t{1} << 20;
constexpr size_t kMaxHandshakeMessage = 4096;

// One direction of a stream, at its sender.
class FrameSealer {
 public:
  // Frames from now on carry a MAC.
  void SetKey(std::string key) { key_ = std::move(key); }
  std::vector<v1::cluster::Frame> Seal(std::string_view message);

 private:
  std::string key_;
  uint64_t sequence_ = 0;
};

// The same direction at its receiver. An error ends the stream: later frames mean nothing.
class FrameOpener {
 public:
  explicit FrameOpener(size_t max_message_bytes) : max_message_bytes_(max_message_bytes) {}

  void SetKey(std::string key) { key_ = std::move(key); }
  // The message that this frame completes; nullopt when more frames belong to it.
  // INVALID_ARGUMENT for a frame that is out of order, oversized or not authentic.
  absl::StatusOr<std::optional<std::string>> Open(const v1::cluster::Frame& frame);

 private:
  const size_t max_message_bytes_;
  std::string key_;
  uint64_t sequence_ = 0;
  std::string partial_;
};

}  // namespace tessera

#endif  // TESSERA_PARALLEL_CLUSTER_FRAMES_H_
