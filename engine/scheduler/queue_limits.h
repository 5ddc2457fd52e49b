// How much may wait: requests and prompt tokens.
#ifndef TESSERA_ENGINE_SCHEDULER_QUEUE_LIMITS_H_
#define TESSERA_ENGINE_SCHEDULER_QUEUE_LIMITS_H_

#include <cstdint>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "engine/options.h"

namespace tessera {

// Counts what was accepted and has not been scheduled yet. Not thread-safe.
class QueueLimits {
 public:
  explicit QueueLimits(const SchedulerOptions& options)
      : max_requests_(options.max_queued_requests), max_tokens_(options.max_queued_tokens) {}

  // RESOURCE_EXHAUSTED when the request does not fit. An empty queue takes any request.
  absl::Status Enter(int64_t tokens) {
    if (num_requests_ >= max_requests_) {
      return absl::ResourceExhaustedError(
          absl::StrCat("the queue is full: ", num_requests_, " requests wait; retry later"));
    }
    if (num_requests_ > 0 && num_tokens_ + tokens > max_tokens_) {
      return absl::ResourceExhaustedError(
          absl::StrCat("the queue is full: ", num_tokens_, " prompt tokens wait; retry later"));
    }
    ++num_requests_;
    num_tokens_ += tokens;
    return absl::OkStatus();
  }
  void Leave(int64_t tokens) {
    --num_requests_;
    num_tokens_ -= tokens;
  }

  int32_t num_requests() const { return num_requests_; }
  int64_t num_tokens() const { return num_tokens_; }

 private:
  const int32_t max_requests_;
  const int64_t max_tokens_;
  int32_t num_requests_ = 0;
  int64_t num_tokens_ = 0;
};

}  // namespace tessera

#endif  // TESSERA_ENGINE_SCHEDULER_QUEUE_LIMITS_H_
