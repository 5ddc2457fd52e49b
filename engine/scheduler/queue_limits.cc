#include "engine/scheduler/queue_limits.h"

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace tessera {

bool QueueLimits::Fits(int32_t requests, int64_t tokens, int64_t more_tokens) const {
  return requests == 0 || (requests < max_requests_ && tokens + more_tokens <= max_tokens_);
}

absl::Status QueueLimits::Full() const {
  if (num_requests() >= max_requests_) {
    return absl::ResourceExhaustedError(
        absl::StrCat("the queue is full: ", num_requests(), " requests wait; retry later"));
  }
  return absl::ResourceExhaustedError(
      absl::StrCat("the queue is full: ", num_tokens_, " prompt tokens wait; retry later"));
}

absl::StatusOr<std::vector<RequestId>> QueueLimits::Enter(const QueuedRequest& request) {
  std::vector<QueuedRequest> leaving;
  int32_t requests = num_requests();
  int64_t tokens = num_tokens_;
  for (auto last = waiting_.rbegin(); !Fits(requests, tokens, request.tokens); ++last) {
    if (last == waiting_.rend()) return Full();
    const auto& [place, of_it] = *last;
    if (place.first <= request.priority) return Full();
    leaving.push_back({.id = place.second, .priority = place.first, .tokens = of_it});
    --requests;
    tokens -= of_it;
  }
  std::vector<RequestId> ids;
  for (const QueuedRequest& each : leaving) {
    ids.push_back(each.id);
    Leave(each);
  }
  waiting_.emplace(PlaceOf(request), request.tokens);
  ++num_of_class_[request.priority];
  num_tokens_ += request.tokens;
  return ids;
}

absl::Status QueueLimits::MadeRoom() {
  return absl::ResourceExhaustedError(
      "the queue is full: this request made room for one of a higher priority; retry later");
}

void QueueLimits::Leave(const QueuedRequest& request) {
  if (waiting_.erase(PlaceOf(request)) == 0) return;
  num_tokens_ -= request.tokens;
  const auto found = num_of_class_.find(request.priority);
  if (--found->second == 0) num_of_class_.erase(found);
}

bool QueueLimits::Has(const QueuedRequest& request) const {
  return waiting_.contains(PlaceOf(request));
}

int32_t QueueLimits::num_before(int32_t priority) const {
  int32_t before = 0;
  for (const auto& [of_class, count] : num_of_class_) {
    if (of_class <= priority) before += count;
  }
  return before;
}

}  // namespace tessera
