// Fork-join over the threads of one rank.
#ifndef TESSERA_KERNELS_CORE_THREAD_POOL_H_
#define TESSERA_KERNELS_CORE_THREAD_POOL_H_

#include <atomic>
#include <cstdint>
#include <memory>
#include <thread>
#include <vector>

#include "absl/functional/function_ref.h"

namespace tessera {

// How tasks meet threads. Results must not depend on it: a task writes only what is its own.
enum class Schedule : uint8_t {
  kDynamic,  // small chunks, taken by whoever is free
  kStatic,   // one contiguous chunk per thread, the same in every call (keeps caches warm); the
             // chunk of a thread that is late is done by another
};

// The thread that calls ParallelFor is worker 0; the pool adds num_threads - 1 more. One caller at
// a time, and no ParallelFor inside a task.
class ThreadPool {
 public:
  // `spin`: idle threads poll for 500 us before they sleep, and after 10 us they give their core to
  // whoever wants it. Only useful when every thread of every rank has a core of its own; otherwise
  // they sleep at once.
  explicit ThreadPool(int num_threads, bool spin = true);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int num_threads() const { return static_cast<int>(workers_.size()) + 1; }

  // Calls task(i) once for each i in [0, tasks) and returns when all have returned. What tasks
  // wrote is visible to the caller afterwards. Tasks must not throw.
  void ParallelFor(int64_t tasks, absl::FunctionRef<void(int64_t task)> task,
                   Schedule schedule = Schedule::kDynamic);

  // By the thread that calls ParallelFor: no job follows at once. Threads that poll for it give
  // their core to whoever wants it from now on.
  void Rest() { resting_after_.store(job_.number, std::memory_order_relaxed); }

 private:
  struct Job {
    const absl::FunctionRef<void(int64_t)>* task = nullptr;
    int64_t tasks = 0;
    int64_t chunk = 1;
    int64_t chunks = 0;
    Schedule schedule = Schedule::kDynamic;
    uint32_t number = 0;
  };

  void WorkerLoop(int worker);
  // Joins the current job when it is still open and not `last_number`; returns its number.
  uint32_t JoinJob(int worker, uint32_t last_number);
  // Returns when there is another job than `last_number`, or the pool ends.
  void AwaitJob(uint32_t last_number);
  void Work(int worker);
  void RunChunk(int64_t chunk);
  void WaitForWorkers();

  const bool spin_;
  Job job_;  // written by the caller while no worker is inside a job
  // Number of the job (high 32 bits), whether it takes no more workers, and how many are inside.
  alignas(64) std::atomic<uint64_t> state_;
  alignas(64) std::atomic<int64_t> next_chunk_{0};
  alignas(64) std::atomic<int32_t> wake_workers_{0};
  alignas(64) std::atomic<int32_t> wake_caller_{0};
  alignas(64) std::atomic<uint32_t> resting_after_{0};  // job number
  std::atomic<bool> stop_{false};
  std::unique_ptr<std::atomic<uint32_t>[]> chunk_taken_;  // job number of the last taker
  std::vector<std::thread> workers_;
};

}  // namespace tessera

#endif  // TESSERA_KERNELS_CORE_THREAD_POOL_H_
