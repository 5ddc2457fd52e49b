// Threads for the costly part of large calls: parsing, rendering, tokenising, decoding. gRPC's own
// threads are few and serve every connection, so whoever kept one for long would keep all waiting.
#ifndef TESSERA_SERVER_CALL_WORKERS_H_
#define TESSERA_SERVER_CALL_WORKERS_H_

#include <cstddef>
#include <cstdint>
#include <deque>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/functional/any_invocable.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"

namespace tessera {

// Thread-safe. Nobody waits for a place: with all threads busy and the queue full a call is
// refused, so what large calls take of the machine and the time that one of them waits are bounded.
class CallWorkers {
 public:
  // A message up to this size is handled where it arrives: handing it over costs tens of
  // microseconds. To encode so much text costs a fraction of a millisecond; the worst is a chat of
  // hundreds of empty messages, whose rendering takes three.
  static constexpr size_t kSmallCallBytes = 4 << 10;

  // Two threads: a large call need not wait for another one, and the cores stay with the model.
  static constexpr int32_t kThreads = 2;
  // A message of 4 MiB takes some hundred milliseconds: who is last waits for seconds, not minutes.
  static constexpr int32_t kMaxQueued = 16;

  // Of small calls whose output has a structure to compile: milliseconds each, as a rule.
  static constexpr int32_t kMaxCompiling = 256;

  using Work = absl::AnyInvocable<void() &&>;
  using Ticket = uint64_t;

  explicit CallWorkers(int32_t max_queued = kMaxQueued);
  // Nothing may be queued any more; waits for what runs.
  ~CallWorkers();
  CallWorkers(const CallWorkers&) = delete;
  CallWorkers& operator=(const CallWorkers&) = delete;

  // Runs `work`, which must not throw, once a thread is free: first come, first served.
  // RESOURCE_EXHAUSTED, and `work` is gone, when the queue is full.
  absl::StatusOr<Ticket> Add(Work work);
  // Takes work out of the queue: true when it had not begun and never will. It is destroyed here.
  bool Remove(Ticket ticket);
  int32_t num_queued() const;

 private:
  struct Entry {
    Ticket ticket;
    Work work;
  };
  void Run();

  const size_t max_queued_;
  mutable absl::Mutex mutex_;
  std::deque<Entry> queue_ ABSL_GUARDED_BY(mutex_);
  Ticket next_ticket_ ABSL_GUARDED_BY(mutex_) = 1;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::vector<std::thread> threads_;
};

}  // namespace tessera

#endif  // TESSERA_SERVER_CALL_WORKERS_H_
