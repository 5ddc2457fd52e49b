// How much may wait: requests and prompt tokens, and who gives way when more comes.
#ifndef TESSERA_ENGINE_SCHEDULER_QUEUE_LIMITS_H_
#define TESSERA_ENGINE_SCHEDULER_QUEUE_LIMITS_H_

#include <cstdint>
#include <map>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/options.h"
#include "engine/types.h"

namespace tessera {

struct QueuedRequest {
  RequestId id{};
  int32_t priority = 0;  // lower runs first
  int64_t tokens = 0;    // of the prompt
};

// Counts what was accepted and has not been scheduled yet. Not thread-safe.
class QueueLimits {
 public:
  explicit QueueLimits(const SchedulerOptions& options)
      : max_requests_(options.max_queued_requests), max_tokens_(options.max_queued_tokens) {}

  // Takes `request` in, and returns who had to leave for it: requests of lower priority classes,
  // the last class first, and of a class who came last first. RESOURCE_EXHAUSTED, and nobody
  // leaves, when there is no room all the same. An empty queue takes any request.
  absl::StatusOr<std::vector<RequestId>> Enter(const QueuedRequest& request);
  // What those are told who had to leave.
  static absl::Status MadeRoom();
  // Who has left already is ignored.
  void Leave(const QueuedRequest& request);
  bool Has(const QueuedRequest& request) const;

  int32_t num_requests() const { return static_cast<int32_t>(waiting_.size()); }
  int64_t num_tokens() const { return num_tokens_; }
  // Those of this priority class and of the ones before it.
  int32_t num_before(int32_t priority) const;

 private:
  using Place = std::pair<int32_t, RequestId>;  // priority first
  static Place PlaceOf(const QueuedRequest& request) { return {request.priority, request.id}; }
  bool Fits(int32_t requests, int64_t tokens, int64_t more_tokens) const;
  absl::Status Full() const;

  const int32_t max_requests_;
  const int64_t max_tokens_;
  std::map<Place, int64_t> waiting_;  // tokens
  std::map<int32_t, int32_t> num_of_class_;
  int64_t num_tokens_ = 0;
};

}  // namespace tessera

#endif  // TESSERA_ENGINE_SCHEDULER_QUEUE_LIMITS_H_
