// Threads that do the work of ranks. With a core for every rank each rank has a thread. With fewer
// cores several ranks share one: a rank that waits for its peers lets the next one run, which costs
// a hundred nanoseconds where a switch between sleeping threads costs microseconds.
#ifndef TESSERA_PARALLEL_CARRIER_CARRIER_H_
#define TESSERA_PARALLEL_CARRIER_CARRIER_H_

#include <atomic>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/functional/function_ref.h"
#include "absl/time/time.h"
#include "kernels/core/mutex.h"
#include "parallel/carrier/bell.h"
#include "parallel/carrier/fiber.h"

namespace tessera {

// One rank's place on a carrier.
class Seat {
 public:
  Seat(Bell* bell, bool shared) : bell_(*bell), shared_(shared) {}

  // Runs a function on the rank after what was posted before; does not wait. Any thread.
  void Post(std::function<void()> work);

  // Whether other ranks run on this rank's thread. Only then, and only inside the rank's work:
  bool shared() const { return shared_; }
  // Lets the others run until ready(), which is called by their thread whenever it looks for
  // somebody to run, and, when nobody can, after the group's bell has rung. False at the
  // deadline, by MonotonicNow(). No lock may be held.
  bool Wait(absl::FunctionRef<bool()> ready, absl::Time deadline = absl::InfiniteFuture());
  // Lets each of the others run once.
  void Yield() {
    Wait([] { return true; });
  }

 private:
  friend class Carrier;

  // --- The carrier's thread ---
  void WorkUntilStopped();
  void AwaitWork();
  bool HasWork() const { return num_posted_.load() > 0 || stop_.load(); }
  bool Ready() const { return !finished_ && (ready_ == nullptr || timed_out_ || (*ready_)()); }
  void BeginFiber();

  Bell& bell_;
  const bool shared_;
  Mutex mutex_;
  std::deque<std::function<void()>> work_ ABSL_GUARDED_BY(mutex_);
  std::atomic<int> num_posted_{0};  // in work_
  std::atomic<bool> stop_{false};

  // The carrier's thread only.
  std::optional<Fiber> fiber_;
  const absl::FunctionRef<bool()>* ready_ = nullptr;  // what it waits for; null: it can run
  absl::Time deadline_ = absl::InfiniteFuture();
  absl::Duration limit_ = absl::InfiniteDuration();  // from the beginning of the wait
  bool timed_out_ = false;
  bool finished_ = false;  // will never run again
};

// Used by one thread at a time.
class Carrier {
 public:
  enum class Host : uint8_t {
    kOwnThread,
    kCaller,  // whoever calls RunUntil: saves waking a thread where the caller would only wait
  };
  // Carriers whose ranks wait for each other share a bell, which is rung after every change that
  // one of them may wait for.
  Carrier(int seats, std::shared_ptr<Bell> bell, Host host = Host::kOwnThread);
  ~Carrier();  // finishes what was posted, unless Stop gave up on it
  Carrier(const Carrier&) = delete;
  Carrier& operator=(const Carrier&) = delete;

  Seat& seat(int index);
  // For Host::kCaller: does the ranks' work until done(), which is looked at between their turns
  // and after the bell has rung. False at the deadline, unless a rank hangs.
  bool RunUntil(absl::FunctionRef<bool()> done, absl::Time deadline);
  // Tells the ranks to end when all work is done.
  void BeginStop();
  // BeginStop, and waits for the end. False at the deadline: a rank hangs, and is left to itself
  // together with what its work captured.
  bool Stop(absl::Time deadline);

 private:
  struct State;
  static void Run(State& state);
  static bool RunSeats(State& state, absl::FunctionRef<bool()> done, absl::Time deadline);
  static void AwaitAny(State& state, absl::FunctionRef<bool()> done, absl::Time deadline);
  static void TimeOutSeats(State& state);
  bool StopOwnThread(absl::Time deadline);
  bool StopOnCaller(absl::Time deadline);

  std::shared_ptr<State> state_;
  std::thread thread_;  // none with Host::kCaller
};

}  // namespace tessera

#endif  // TESSERA_PARALLEL_CARRIER_CARRIER_H_
