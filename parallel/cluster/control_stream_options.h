// Times and sizes of a control stream.
#ifndef TESSERA_PARALLEL_CLUSTER_CONTROL_STREAM_OPTIONS_H_
#define TESSERA_PARALLEL_CLUSTER_CONTROL_STREAM_OPTIONS_H_

#include <cstddef>

#include "absl/time/time.h"

namespace tessera {

inline constexpr size_t kMaxControlMessage = size_t{256} << 20;

struct ControlStreamOptions {
  absl::Duration handshake_timeout = absl::Seconds(5);
  absl::Duration heartbeat_interval = absl::Seconds(1);
  // A peer that says nothing for so long is dead.
  absl::Duration heartbeat_timeout = absl::Seconds(60);
  size_t max_message_bytes = kMaxControlMessage;
  // A peer that lets more than this pile up is dead. Two steps may be under way.
  size_t max_queued_bytes = 2 * kMaxControlMessage;
};

}  // namespace tessera

#endif  // TESSERA_PARALLEL_CLUSTER_CONTROL_STREAM_OPTIONS_H_
