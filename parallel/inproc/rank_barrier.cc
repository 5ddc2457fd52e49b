#include "parallel/inproc/rank_barrier.h"

#include <sched.h>

#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/time/clock.h"
#include "kernels/core/relax_core.h"
#include "parallel/carrier/futex.h"

namespace tessera {
namespace {

// A peer that runs on another core is there within some microseconds. One that is not running may
// be waiting for this core: offer it, for about 40 us, before going to sleep.
constexpr int kSpins = 200;
constexpr int kYields = 80;

}  // namespace

RankBarrier::RankBarrier(int size, Options options)
    : size_(size), options_(std::move(options)), arrivals_(new Arrivals[size]) {}

absl::Status RankBarrier::Arrive(int rank, std::string_view operation,
                                 absl::FunctionRef<void()> before_release) {
  uint32_t current = word_.load();
  if ((current & kFailed) != 0) return status();
  arrivals_[rank].count.fetch_add(1, std::memory_order_relaxed);
  if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 < size_) {
    return WaitFor(current, rank, operation);
  }
  before_release();
  arrived_.store(0, std::memory_order_relaxed);
  if (!word_.compare_exchange_strong(current, current + kMeeting)) return status();
  Wake();
  return absl::OkStatus();
}

bool RankBarrier::SpinWhile(uint32_t current) const {
  for (int i = 0; options_.spin && i < kSpins + kYields; ++i) {
    if (word_.load(std::memory_order_acquire) != current) return true;
    if (i < kSpins) {
      RelaxCore();
    } else {
      sched_yield();
    }
  }
  return word_.load(std::memory_order_acquire) != current;
}

bool RankBarrier::AwaitChange(uint32_t current, int rank, absl::Time deadline) {
  const auto changed = [&] { return word_.load(std::memory_order_acquire) != current; };
  if (Seat* const seat = arrivals_[rank].seat) return seat->Wait(changed, deadline);
  while (!changed()) {
    const absl::Duration left = deadline - absl::Now();
    if (left <= absl::ZeroDuration()) return false;
    // Announced before the kernel compares the word; Wake() looks after changing it.
    sleeping_.fetch_add(1);
    FutexWait(&word_, current, left);
    sleeping_.fetch_sub(1);
  }
  return true;
}

absl::Status RankBarrier::WaitFor(uint32_t current, int rank, std::string_view operation) {
  if (!SpinWhile(current) && !AwaitChange(current, rank, absl::Now() + options_.timeout)) {
    Fail(TimeOut(rank, operation));
  }
  const uint32_t now = word_.load(std::memory_order_acquire);
  // A meeting that was finished before the group failed is finished for all its ranks.
  return (now & ~kFailed) != current ? absl::OkStatus() : status();
}

absl::Status RankBarrier::TimeOut(int rank, std::string_view operation) {
  const uint64_t mine = arrivals_[rank].count.load(std::memory_order_relaxed);
  std::vector<int> missing;
  for (int r = 0; r < size_; ++r) {
    if (arrivals_[r].count.load(std::memory_order_relaxed) < mine) missing.push_back(r);
  }
  return absl::DeadlineExceededError(
      absl::StrCat("rank ", rank, " waited ", absl::FormatDuration(options_.timeout), " in ",
                   absl::string_view(operation.data(), operation.size()), " for rank ",
                   absl::StrJoin(missing, ", ")));
}

void RankBarrier::Fail(const absl::Status& reason) {
  {
    const std::lock_guard lock(mutex_);
    if (reason_.ok()) reason_ = reason;
  }
  word_.fetch_or(kFailed);
  Wake();
}

void RankBarrier::Wake() {
  if (sleeping_.load() > 0) FutexWakeAll(&word_);
  if (options_.bell != nullptr) options_.bell->Ring();
}

absl::Status RankBarrier::status() const {
  if ((word_.load(std::memory_order_acquire) & kFailed) == 0) return absl::OkStatus();
  const std::lock_guard lock(mutex_);
  return reason_;
}

}  // namespace tessera
