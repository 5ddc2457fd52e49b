// What compiling one grammar may cost: hostile input ends in a refusal, not in a busy server.
#ifndef TESSERA_ENGINE_GRAMMAR_BUILD_BUDGET_H_
#define TESSERA_ENGINE_GRAMMAR_BUILD_BUDGET_H_

#include <cstdint>
#include <ctime>

#include "absl/status/status.h"
#include "absl/time/time.h"

namespace tessera::grammar {

// Counts work and the thread's own time, so that a busy machine refuses nothing. Once it is spent
// it stays spent: builders then return something small and useless, and whoever holds the budget
// refuses. One thread.
class BuildBudget {
 public:
  static constexpr int64_t kDefaultWork = 8'000'000;  // states, edges and items that are visited
  static constexpr absl::Duration kDefaultTime = absl::Seconds(2);

  explicit BuildBudget(int64_t work = kDefaultWork, absl::Duration time = kDefaultTime)
      : work_(work), end_(TimeOfThread() + time) {}

  // False: spent, do no more.
  bool Take(int64_t work = 1) {
    constexpr int64_t kWorkPerLook = 1 << 14;
    work_ -= work;
    since_look_ += work;
    if (since_look_ >= kWorkPerLook) {
      since_look_ = 0;
      if (TimeOfThread() > end_) work_ = -1;
    }
    return work_ >= 0;
  }
  void Exhaust() { work_ = -1; }
  bool spent() const { return work_ < 0; }
  absl::Status status() const {
    if (!spent()) return absl::OkStatus();
    return absl::InvalidArgumentError("is too large: compiling it takes too much time or memory");
  }

 private:
  static absl::Duration TimeOfThread() {
    timespec time{};
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
    return absl::DurationFromTimespec(time);
  }

  int64_t work_;
  int64_t since_look_ = 0;
  absl::Duration end_;
};

}  // namespace tessera::grammar

#endif  // TESSERA_ENGINE_GRAMMAR_BUILD_BUDGET_H_
