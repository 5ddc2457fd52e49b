#include "parallel/nccl/stream_times.h"

namespace tessera::cuda {
namespace {

// Ended operations are collected when more than this many have not been: seldom.
constexpr size_t kMostOpen = 64;

}  // namespace

StreamTimes::~StreamTimes() {
  absl::MutexLock lock(&mutex_);
  for (const Timed& timed : open_) {
    events_.push_back(timed.begin);
    if (timed.end != nullptr) events_.push_back(timed.end);
  }
  for (cudaEvent_t event : events_) cudaEventDestroy(event);
}

cudaError_t StreamTimes::Take(cudaEvent_t* event) {
  if (events_.empty()) return cudaEventCreateWithFlags(event, cudaEventDefault);
  *event = events_.back();
  events_.pop_back();
  return cudaSuccess;
}

cudaError_t StreamTimes::Begin(const Operation& operation, cudaStream_t stream) {
  absl::MutexLock lock(&mutex_);
  if (open_.size() > kMostOpen) CollectEnded();
  cudaEvent_t event = nullptr;
  const cudaError_t error = Take(&event);
  if (error != cudaSuccess) return error;
  open_.push_back({.operation = operation, .begin = event});
  return cudaEventRecord(event, stream);
}

cudaError_t StreamTimes::End(cudaStream_t stream) {
  absl::MutexLock lock(&mutex_);
  cudaEvent_t event = nullptr;
  cudaError_t error = Take(&event);
  if (error != cudaSuccess) return error;
  error = cudaEventRecord(event, stream);
  open_.back().end = event;
  return error;
}

void StreamTimes::CollectEnded() {
  while (!open_.empty()) {
    const Timed& oldest = open_.front();
    if (oldest.end == nullptr || cudaEventQuery(oldest.end) != cudaSuccess) return;
    float milliseconds = 0;
    const std::optional<CollectiveOp> kind = oldest.operation.kind;
    if (kind.has_value() &&
        cudaEventElapsedTime(&milliseconds, oldest.begin, oldest.end) == cudaSuccess) {
      sum_[static_cast<size_t>(*kind)] += milliseconds / 1e3;
    }
    events_.push_back(oldest.begin);
    events_.push_back(oldest.end);
    open_.pop_front();
  }
}

std::optional<StreamTimes::Current> StreamTimes::Look() {
  absl::MutexLock lock(&mutex_);
  CollectEnded();
  if (open_.empty()) return std::nullopt;
  Timed& oldest = open_.front();
  if (!oldest.begun.has_value() && cudaEventQuery(oldest.begin) == cudaSuccess) {
    oldest.begun = Clock::now();
  }
  Current current{.operation = oldest.operation, .begun = oldest.begun.has_value()};
  if (current.begun) current.since = absl::FromChrono(Clock::now() - *oldest.begun);
  return current;
}

CollectiveTimes StreamTimes::Sum() {
  absl::MutexLock lock(&mutex_);
  CollectEnded();
  return sum_;
}

}  // namespace tessera::cuda
