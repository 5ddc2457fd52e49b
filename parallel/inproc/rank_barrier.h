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

// What the ranks of a meeting do once all of them are there, in parts that may run at the same
// time: whoever is awake takes the next one, so a part must have the same effect on whichever rank
// it runs. It may use what any rank pointed to before it arrived: nobody leaves before the end.
struct MeetingWork {
  static constexpr int kMaxParts = 64;
  int parts = 1;  // 1 to kMaxParts
  absl::FunctionRef<absl::Status(int part)> run;
  // Long enough to wake ranks that sleep already.
  bool long_enough_to_wake = false;
};

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

  // Returns when all ranks have arrived and the work is done, which all ranks give alike; what a
  // rank wrote before is visible to the work, what the work wrote to all. `check` runs on the rank
  // that arrives last, before any work. Fails with the sticky status, also that of the check or of
  // a part; a rank that waits longer than the timeout fails the group with DEADLINE_EXCEEDED,
  // naming `operation` and the ranks that are missing. After a failure no part runs any more.
  absl::Status Arrive(int rank, std::string_view operation, absl::FunctionRef<absl::Status()> check,
                      const MeetingWork& work);

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
  static constexpr uint64_t kNoParts = ~uint64_t{0};

  void Open(const MeetingWork& work);
  void Release(uint32_t current);
  bool HasParts() const { return taken_.load(std::memory_order_acquire) != kNoParts; }
  void DoParts(uint32_t current, int rank, const MeetingWork& work);
  void TakeParts(uint32_t current, int rank, const MeetingWork& work);
  // Until the meeting has ended or there is work. False after the timeout.
  bool Await(uint32_t current, int rank);
  bool Changed(uint32_t current) const {
    return word_.load(std::memory_order_acquire) != current || HasParts();
  }
  bool Spin(uint32_t current) const;
  absl::Status TimeOut(int rank, std::string_view operation);
  void Wake();

  const int size_;
  const Options options_;
  alignas(64) std::atomic<uint32_t> word_{0};
  alignas(64) std::atomic<int> arrived_{0};
  std::atomic<int> sleeping_{0};
  // Bit p is set while part p is not to be had: taken, or the meeting has not begun.
  alignas(64) std::atomic<uint64_t> taken_{kNoParts};
  std::atomic<int> parts_done_{0};
  std::atomic<int> working_{0};                 // ranks that may be inside a part
  const std::unique_ptr<Arrivals[]> arrivals_;  // per rank

  mutable std::mutex mutex_;
  absl::Status reason_;  // guarded by mutex_
};

}  // namespace tessera

#endif  // TESSERA_PARALLEL_INPROC_RANK_BARRIER_H_
