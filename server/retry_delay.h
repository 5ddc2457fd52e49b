// When a refused call may be tried again, as part of its status.
#ifndef TESSERA_SERVER_RETRY_DELAY_H_
#define TESSERA_SERVER_RETRY_DELAY_H_

#include "absl/status/status.h"
#include "absl/time/time.h"

namespace tessera {

// At least kLeastRetryDelay, at most kMostRetryDelay.
absl::Status WithRetryDelay(absl::Status status, absl::Duration delay);
// kLeastRetryDelay for a status that says nothing.
absl::Duration RetryDelayOf(const absl::Status& status);

constexpr absl::Duration kLeastRetryDelay = absl::Milliseconds(500);
constexpr absl::Duration kMostRetryDelay = absl::Seconds(30);

}  // namespace tessera

#endif  // TESSERA_SERVER_RETRY_DELAY_H_
