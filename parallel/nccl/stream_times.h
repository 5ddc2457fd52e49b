// When operations of a stream begin and end, by events around them.
#ifndef TESSERA_PARALLEL_NCCL_STREAM_TIMES_H_
#define TESSERA_PARALLEL_NCCL_STREAM_TIMES_H_

#include <cuda_runtime.h>

#include <chrono>
#include <cstdint>
#include <deque>
#include <optional>
#include <string_view>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "parallel/collective_times.h"

namespace tessera::cuda {

// Begin and End by the thread that drives the stream's device; the rest by any thread.
class StreamTimes {
 public:
  struct Operation {
    std::optional<CollectiveOp> kind;  // none: its time is not counted
    std::string_view name;             // a literal
    uint64_t number = 0;
  };

  StreamTimes() = default;
  StreamTimes(const StreamTimes&) = delete;
  StreamTimes& operator=(const StreamTimes&) = delete;
  ~StreamTimes();

  cudaError_t Begin(const Operation& operation, cudaStream_t stream);
  cudaError_t End(cudaStream_t stream);

  // An operation that the stream is at, and for how long it has been known to be there.
  struct Current {
    Operation operation;
    bool begun = false;
    absl::Duration since = absl::ZeroDuration();
  };
  // The oldest one that has not ended; none: all have.
  std::optional<Current> Look();
  CollectiveTimes Sum();

 private:
  using Clock = std::chrono::steady_clock;
  struct Timed {
    Operation operation;
    cudaEvent_t begin = nullptr;
    cudaEvent_t end = nullptr;  // null: still being enqueued
    std::optional<Clock::time_point> begun;
  };

  cudaError_t Take(cudaEvent_t* event) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void CollectEnded() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  absl::Mutex mutex_;
  std::deque<Timed> open_ ABSL_GUARDED_BY(mutex_);
  std::vector<cudaEvent_t> events_ ABSL_GUARDED_BY(mutex_);  // free ones
  CollectiveTimes sum_ ABSL_GUARDED_BY(mutex_) = {};
};

}  // namespace tessera::cuda

#endif  // TESSERA_PARALLEL_NCCL_STREAM_TIMES_H_
