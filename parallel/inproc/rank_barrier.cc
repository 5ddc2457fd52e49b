#include "parallel/inproc/rank_barrier.h"

#include <sched.h>

#include <bit>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "kernels/core/monotonic_time.h"
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
                                 absl::FunctionRef<absl::Status()> check, const MeetingWork& work) {
  const uint32_t current = word_.load();
  if ((current & kFailed) != 0) return status();
  arrivals_[rank].count.fetch_add(1, std::memory_order_relaxed);
  if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == size_) {
    const absl::Status checked = check();
    if (checked.ok()) {
      Open(work);
    } else {
      Fail(checked);
    }
  }
  while (word_.load(std::memory_order_acquire) == current) {
    if (HasParts()) {
      DoParts(current, rank, work);
    } else if (!Await(current, rank)) {
      Fail(TimeOut(rank, operation));
    }
  }
  // A meeting that was finished before the group failed is finished for all its ranks.
  if ((word_.load(std::memory_order_acquire) & ~kFailed) != current) return absl::OkStatus();
  // The caller may take its memory away: let those who are inside a part leave it.
  while (working_.load() > 0) sched_yield();
  return status();
}

void RankBarrier::Open(const MeetingWork& work) {
  parts_done_.store(0, std::memory_order_relaxed);
  taken_.store(work.parts == MeetingWork::kMaxParts ? 0 : kNoParts << work.parts);
  if (work.long_enough_to_wake) Wake();
}

void RankBarrier::Release(uint32_t current) {
  arrived_.store(0, std::memory_order_relaxed);
  if (word_.compare_exchange_strong(current, current + kMeeting)) Wake();
}

void RankBarrier::DoParts(uint32_t current, int rank, const MeetingWork& work) {
  // In one order with the failing of the group: a rank that finds nobody working after a failure
  // knows that nobody begins to.
  working_.fetch_add(1);
  TakeParts(current, rank, work);
  working_.fetch_sub(1);
}

void RankBarrier::TakeParts(uint32_t current, int rank, const MeetingWork& work) {
  // Each rank begins at its own share of the parts and goes on with its neighbours', which are the
  // ones that are likely to share its caches.
  const auto first = static_cast<unsigned>(rank * work.parts / size_);
  for (unsigned i = 0; i < std::bit_ceil(static_cast<unsigned>(work.parts)); ++i) {
    const unsigned part = first ^ i;
    if (part >= static_cast<unsigned>(work.parts)) continue;
    const uint64_t bit = uint64_t{1} << part;
    if ((taken_.load(std::memory_order_relaxed) & bit) != 0) continue;
    if ((taken_.fetch_or(bit) & bit) != 0) continue;
    if (word_.load() != current) return;
    if (const absl::Status status = work.run(static_cast<int>(part)); !status.ok()) Fail(status);
    if (parts_done_.fetch_add(1, std::memory_order_acq_rel) + 1 == work.parts) Release(current);
  }
}

bool RankBarrier::Spin(uint32_t current) const {
  for (int i = 0; options_.spin && i < kSpins + kYields; ++i) {
    if (Changed(current)) return true;
    if (i < kSpins) {
      RelaxCore();
    } else {
      sched_yield();
    }
  }
  return Changed(current);
}

bool RankBarrier::Await(uint32_t current, int rank) {
  if (Spin(current)) return true;
  if (Seat* const seat = arrivals_[rank].seat) {
    return seat->Wait([&] { return Changed(current); }, MonotonicNow() + options_.timeout);
  }
  WaitLimit limit(options_.timeout);
  while (!Changed(current)) {
    const absl::Duration left = limit.left();
    if (left <= absl::ZeroDuration()) return false;
    // Announced before the kernel compares the word; Wake() looks after changing it.
    sleeping_.fetch_add(1);
    FutexWait(&word_, current, left);
    sleeping_.fetch_sub(1);
  }
  return true;
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
