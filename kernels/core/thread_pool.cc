#include "kernels/core/thread_pool.h"

#include <algorithm>
#include <chrono>

#include "kernels/core/relax_core.h"
#include "kernels/core/status_macros.h"

namespace tessera {
namespace {

constexpr uint64_t kClosed = uint64_t{1} << 31;
constexpr uint64_t kInside = kClosed - 1;
constexpr int64_t kChunksPerThread = 8;

uint32_t NumberOf(uint64_t state) { return static_cast<uint32_t>(state >> 32); }

// One wait for something that is likely to come soon. Bounded by time: the length of a pause
// differs tenfold between processors.
class Polling {
 public:
  // False when it is time to sleep. `considerate`: others may have the core right away.
  bool Continue(bool considerate) {
    const auto waited = Clock::now() - begun_;
    if (waited >= kLimit) return false;
    if (considerate || waited >= kSelfish) {
      std::this_thread::yield();
    } else {
      RelaxCore();
    }
    return true;
  }

 private:
  using Clock = std::chrono::steady_clock;
  // The operations of a step follow each other more closely than this.
  static constexpr std::chrono::microseconds kSelfish{10};
  // A core that yields needs no waking up, which takes virtual ones tens of microseconds: for the
  // answer of a finished request, and for the next request of a client that asked for nothing else.
  static constexpr std::chrono::microseconds kLimit{500};

  Clock::time_point begun_ = Clock::now();
};

}  // namespace

ThreadPool::ThreadPool(int num_threads, bool spin)
    : spin_(spin),
      state_(kClosed),
      chunk_taken_(std::make_unique<std::atomic<uint32_t>[]>(std::max(1, num_threads))) {
  TESSERA_CHECK(num_threads >= 1);
  for (int worker = 1; worker < num_threads; ++worker) {
    workers_.emplace_back([this, worker] { WorkerLoop(worker); });
  }
}

ThreadPool::~ThreadPool() {
  stop_.store(true);
  wake_workers_.fetch_add(1);
  wake_workers_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

void ThreadPool::ParallelFor(int64_t tasks, absl::FunctionRef<void(int64_t)> task,
                             Schedule schedule) {
  if (workers_.empty() || tasks <= 1) {
    for (int64_t i = 0; i < tasks; ++i) task(i);
    return;
  }
  const int64_t threads = num_threads();
  const int64_t wanted = schedule == Schedule::kStatic ? threads : threads * kChunksPerThread;
  const int64_t chunk = (tasks + wanted - 1) / wanted;
  job_ = {.task = &task,
          .tasks = tasks,
          .chunk = chunk,
          .chunks = (tasks + chunk - 1) / chunk,
          .schedule = schedule,
          .number = job_.number + 1};
  next_chunk_.store(0, std::memory_order_relaxed);
  state_.store(uint64_t{job_.number} << 32);
  wake_workers_.fetch_add(1);
  wake_workers_.notify_all();
  Work(0);
  // Whoever has not come by now need not come: a sleeping thread never delays a small job.
  state_.fetch_or(kClosed);
  WaitForWorkers();
}

void ThreadPool::WaitForWorkers() {
  Polling polling;
  while ((state_.load() & kInside) != 0) {
    if (spin_ && polling.Continue(/*considerate=*/false)) continue;
    const int32_t ticket = wake_caller_.load();
    if ((state_.load() & kInside) == 0) break;
    wake_caller_.wait(ticket);
  }
}

void ThreadPool::Work(int worker) {
  if (job_.schedule == Schedule::kDynamic) {
    for (int64_t chunk = next_chunk_.fetch_add(1, std::memory_order_relaxed); chunk < job_.chunks;
         chunk = next_chunk_.fetch_add(1, std::memory_order_relaxed)) {
      RunChunk(chunk);
    }
    return;
  }
  for (int64_t i = 0; i < job_.chunks; ++i) {
    const int64_t chunk = (worker + i) % job_.chunks;
    const uint32_t taker = chunk_taken_[chunk].exchange(job_.number, std::memory_order_relaxed);
    if (taker != job_.number) RunChunk(chunk);
  }
}

void ThreadPool::RunChunk(int64_t chunk) {
  const int64_t end = std::min(job_.tasks, (chunk + 1) * job_.chunk);
  for (int64_t i = chunk * job_.chunk; i < end; ++i) (*job_.task)(i);
}

uint32_t ThreadPool::JoinJob(int worker, uint32_t last_number) {
  uint64_t state = state_.load();
  while (NumberOf(state) != last_number && (state & kClosed) == 0) {
    if (!state_.compare_exchange_weak(state, state + 1)) continue;
    Work(worker);
    const uint64_t before = state_.fetch_sub(1);
    if ((before & kClosed) != 0 && (before & kInside) == 1) {
      wake_caller_.fetch_add(1);
      wake_caller_.notify_one();
    }
    break;
  }
  return NumberOf(state);
}

void ThreadPool::WorkerLoop(int worker) {
  uint32_t last_number = 0;
  while (!stop_.load()) {
    last_number = JoinJob(worker, last_number);
    AwaitJob(last_number);
  }
}

void ThreadPool::AwaitJob(uint32_t last_number) {
  Polling polling;
  while (true) {
    // Before the conditions: whoever changes one afterwards makes the ticket invalid.
    const int32_t ticket = wake_workers_.load();
    if (stop_.load() || NumberOf(state_.load()) != last_number) return;
    const bool resting = resting_after_.load(std::memory_order_relaxed) == last_number;
    if (spin_ && polling.Continue(/*considerate=*/resting)) continue;
    wake_workers_.wait(ticket);
    polling = Polling();
  }
}

}  // namespace tessera
