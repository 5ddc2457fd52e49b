// The meeting point of the ranks of one process.
#ifndef TESSERA_PARALLEL_INPROC_RANK_BARRIER_H_
#define TESSERA_PARALLEL_INPROC_RANK_BARRIER_H_

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string_view>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/time/time.h"
#include "parallel/carrier/bell.h"
#include "parallel/carrier/carrier.h"

namespace tessera {

// Reusable. A waiting rank that shares its thread lets the next one run. Others spin for a bounded
// time when every rank has a core of its own, then (or at once) sleep in the kernel. A meeting
// either succeeds for all ranks or fails for all.
class RankBarrier {
 public:
  struct Options {
    absl::Duration timeout = absl::Seconds(60);
    bool spin = false;
    std::shared_ptr<Bell> bell;  // of the carriers whose ranks meet here, if any
  };
  RankBarrier(int size, Options options);

  // The rank shares its thread; before its first meeting. The seat must outlive its last one.
  void Sit(int rank, Seat* seat) { arrivals_[rank].seat = seat; }

  // Returns when all ranks have arrived; what a rank wrote before is visible to all. Fails with the
  // sticky status; a rank that waits longer than the timeout fails the group with
  // DEADLINE_EXCEEDED, naming `operation` and the ranks that are missing.
  // `before_release` runs on the rank that arrives last, while the others wait (or fail: it must
  // not count on their memory without further agreement).
  absl::Status Arrive(
      int rank, std::string_view operation, absl::FunctionRef<void()> before_release = [] {});

  bool spins() const { return options_.spin; }

  // Fails this and all later meetings. The first reason wins. Any thread.
  void Fail(const absl::Status& reason);
  absl::Status status() const;

 private:
  struct alignas(64) Arrivals {
    std::atomic<uint64_t> count{0};  // only for the message of a timeout
    Seat* seat = nullptr;            // used by the rank itself
  };

  // Odd: failed. Otherwise twice the number of finished meetings. One word, so that finishing a
  // meeting and failing the group have one order that all ranks see.
  static constexpr uint32_t kFailed = 1;
  static constexpr uint32_t kMeeting = 2;

  absl::Status WaitFor(uint32_t current, int rank, std::string_view operation);
  // False at the deadline.
  bool AwaitChange(uint32_t current, int rank, absl::Time deadline);
  bool SpinWhile(uint32_t current) const;
  absl::Status TimeOut(int rank, std::string_view operation);
  void Wake();

  const int size_;
  const Options options_;
  alignas(64) std::atomic<uint32_t> word_{0};
  alignas(64) std::atomic<int> arrived_{0};
  std::atomic<int> sleeping_{0};
  const std::unique_ptr<Arrivals[]> arrivals_;  // per rank

  mutable std::mutex mutex_;
  absl::Status reason_;  // guarded by mutex_
};

}  // namespace tessera

#endif  // TESSERA_PARALLEL_INPROC_RANK_BARRIER_H_
