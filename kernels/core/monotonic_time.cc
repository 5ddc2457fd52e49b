#include "kernels/core/monotonic_time.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <map>

#include "absl/time/clock.h"
#include "kernels/core/background_thread.h"
#include "kernels/core/mutex.h"

namespace tessera {
namespace {

// After a stop of more than this nobody can tell how far the work had come: it gets all its time
// again. After shorter ones, which a busy machine causes, too, it gets this much.
constexpr absl::Duration kLongStop = absl::Seconds(1);

// Tells those who wait for conditions that their time is over. One thread per process.
class Alarm {
 public:
  struct Entry {
    absl::Mutex* mutex;
    absl::Time deadline;
    absl::Duration limit;
    std::atomic<bool> over{false};
    std::multimap<absl::Time, Entry*>::iterator place;
  };

  // Never ends: threads wait for conditions until the process exits.
  static Alarm& Instance() {
    static auto* const alarm = new Alarm;
    return *alarm;
  }

  // The caller holds entry->mutex, and until Remove() the alarm may only try to lock it.
  void Add(Entry* entry) {
    MutexLock lock(&mutex_);
    Insert(entry);
    if (entry->deadline < wakes_at_) changed_.Signal();
  }
  void Remove(Entry* entry) {
    MutexLock lock(&mutex_);
    if (!entry->over) entries_.erase(entry->place);
  }

 private:
  Alarm() {
    StartBackgroundThread([this] { Run(); });
  }

  void Insert(Entry* entry) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    entry->place = entries_.emplace(entry->deadline, entry);
  }

  [[noreturn]] void Run() {
    MutexLock lock(&mutex_);
    while (true) {
      const absl::Time now = MonotonicNow();
      if (entries_.empty() || entries_.begin()->first > now) {
        Sleep(now);
      } else {
        Handle(entries_.begin()->second, now);
      }
    }
  }

  void Sleep(absl::Time now) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    wakes_at_ = entries_.empty() ? absl::InfiniteFuture() : entries_.begin()->first;
    if (wakes_at_ == absl::InfiniteFuture()) {
      changed_.Wait(&mutex_);
    } else {
      changed_.WaitWithTimeout(&mutex_, wakes_at_ - now);
    }
    wakes_at_ = absl::InfinitePast();  // awake
  }

  // An entry whose time has come.
  void Handle(Entry* entry, absl::Time now) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    constexpr absl::Duration kNextTry = absl::Milliseconds(1);
    entries_.erase(entry->place);
    const absl::Time deadline = PatientDeadline(entry->deadline, now, entry->limit);
    if (deadline <= now && entry->mutex->TryLock()) {
      entry->over = true;
      entry->mutex->Unlock();  // looks at what its waiters wait for
      return;
    }
    entry->deadline = std::max(deadline, now + kNextTry);
    Insert(entry);
  }

  Mutex mutex_;
  CondVar changed_;
  std::multimap<absl::Time, Entry*> entries_ ABSL_GUARDED_BY(mutex_);
  absl::Time wakes_at_ ABSL_GUARDED_BY(mutex_) = absl::InfinitePast();
};

}  // namespace

absl::Time MonotonicNow() {
  struct Origin {
    absl::Time wall = absl::Now();
    std::chrono::steady_clock::time_point steady = std::chrono::steady_clock::now();
  };
  static const Origin origin;
  return origin.wall + absl::FromChrono(std::chrono::steady_clock::now() - origin.steady);
}

absl::Time WallTime(absl::Time time) { return absl::Now() + (time - MonotonicNow()); }

absl::Time PatientDeadline(absl::Time deadline, absl::Time now, absl::Duration limit) {
  const absl::Duration late = now - deadline;
  if (late < kStopNoticed) return deadline;
  return now + (late > kLongStop ? limit : std::min(limit, kLongStop));
}

absl::Duration WaitLimit::left() {
  const absl::Time now = MonotonicNow();
  deadline_ = PatientDeadline(deadline_, now, limit_);
  return std::max(deadline_ - now, absl::ZeroDuration());
}

bool AwaitUntil(absl::Mutex* mutex, const absl::Condition& condition, absl::Time deadline) {
  if (condition.Eval()) return true;
  if (deadline == absl::InfiniteFuture()) {
    mutex->Await(condition);
    return true;
  }
  const absl::Duration limit = deadline - MonotonicNow();
  if (limit <= absl::ZeroDuration()) return false;
  Alarm::Entry entry{.mutex = mutex, .deadline = deadline, .limit = limit, .place = {}};
  Alarm::Instance().Add(&entry);
  const auto over = [&] { return entry.over.load() || condition.Eval(); };
  mutex->Await(absl::Condition(&over));
  Alarm::Instance().Remove(&entry);
  return condition.Eval();
}

bool AwaitFor(absl::Mutex* mutex, const absl::Condition& condition, absl::Duration timeout) {
  return AwaitUntil(mutex, condition, MonotonicNow() + timeout);
}

}  // namespace tessera
