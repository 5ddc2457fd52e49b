#include "server/grpc/message_intake.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "kernels/core/monotonic_time.h"
#include "server/field_violations.h"

namespace tessera {

MessageIntake::MessageIntake(const CallGate* gate, Limits limits)
    : gate_(*gate), limits_(limits), thread_([this] { Run(); }) {}

MessageIntake::~MessageIntake() {
  {
    absl::MutexLock lock(&mutex_);
    stop_ = true;
  }
  thread_.join();
}

MessageIntake::Ticket MessageIntake::Enter(std::weak_ptr<Waiting> call) {
  const absl::Time now = MonotonicNow();
  absl::MutexLock lock(&mutex_);
  calls_.emplace_hint(calls_.end(), next_ticket_, Entry{now, std::move(call)});
  return next_ticket_++;
}

bool MessageIntake::Leave(Ticket ticket) {
  absl::MutexLock lock(&mutex_);
  return calls_.erase(ticket) == 1;
}

void MessageIntake::NothingCame(Ticket ticket) {
  absl::MutexLock lock(&mutex_);
  const auto found = calls_.find(ticket);
  if (found != calls_.end()) found->second.nothing_came = true;
}

void MessageIntake::Run() {
  constexpr absl::Duration kPause = absl::Milliseconds(500);
  const auto stopped = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return stop_; };
  const auto has_work = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return stop_ || !calls_.empty();
  };
  while (true) {
    {
      absl::MutexLock lock(&mutex_);
      mutex_.Await(absl::Condition(&has_work));
      if (AwaitFor(&mutex_, absl::Condition(&stopped), kPause)) return;
    }
    for (const auto& [call, why] : Hopeless(MonotonicNow())) call->GiveUp(why);
  }
}

std::vector<MessageIntake::GivenUp> MessageIntake::Hopeless(absl::Time now) {
  std::vector<GivenUp> hopeless;
  absl::MutexLock lock(&mutex_);
  size_t num_slow = 0;
  for (const auto& [ticket, entry] : calls_) num_slow += now - entry.since >= kSlow ? 1 : 0;
  std::erase_if(calls_, [&](const std::pair<const Ticket, Entry>& waiting) {
    std::shared_ptr<Waiting> call = waiting.second.call.lock();
    if (call == nullptr) return true;
    absl::Status why = Verdict(waiting.second, now, num_slow);
    if (why.ok()) return false;
    if (now - waiting.second.since >= kSlow) --num_slow;
    hopeless.emplace_back(std::move(call), std::move(why));
    return true;
  });
  return hopeless;
}

absl::Status MessageIntake::Verdict(const Entry& entry, absl::Time now, size_t num_slow) const {
  const absl::Duration waited = now - entry.since;
  if (entry.nothing_came) return FieldError("request", "is missing: the call has no message");
  if (waited >= limits_.patience) {
    return absl::AbortedError(
        absl::StrCat("the message was not there after ", absl::FormatDuration(limits_.patience)));
  }
  if (waited < kSlow) return absl::OkStatus();
  if (gate_.closed()) return absl::UnavailableError("the server is shutting down; try another one");
  if (num_slow > limits_.max_slow) {
    return absl::ResourceExhaustedError(
        absl::StrCat("the message was not there after ",
                     absl::FormatDuration(absl::Trunc(waited, absl::Seconds(1))), ", and ",
                     num_slow, " others are as slow"));
  }
  return absl::OkStatus();
}

}  // namespace tessera
