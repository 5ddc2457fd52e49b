#include "server/call_gate.h"

#include "kernels/core/monotonic_time.h"

namespace tessera {

CallGate::~CallGate() {
  absl::MutexLock lock(&mutex_);
  const auto none = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return num_calls_ == 0; };
  mutex_.Await(absl::Condition(&none));
}

void CallGate::CallOpened() {
  absl::MutexLock lock(&mutex_);
  ++num_calls_;
}

void CallGate::CallClosed() {
  absl::MutexLock lock(&mutex_);
  --num_calls_;
}

CallGate::Submission::~Submission() {
  if (gate_ == nullptr) return;
  absl::MutexLock lock(&gate_->mutex_);
  --gate_->num_submissions_;
}

std::optional<CallGate::Submission> CallGate::BeginSubmission() {
  absl::MutexLock lock(&mutex_);
  if (closed_) return std::nullopt;
  ++num_submissions_;
  return Submission(this);
}

bool CallGate::closed() const {
  absl::MutexLock lock(&mutex_);
  return closed_;
}

bool CallGate::HasGivenUp() const {
  absl::MutexLock lock(&mutex_);
  return given_up_;
}

void CallGate::Close(absl::Duration timeout) {
  absl::MutexLock lock(&mutex_);
  closed_ = true;
  const auto none = [this]()
                        ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return num_submissions_ == 0; };
  const auto over = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return hurry_ || num_submissions_ == 0;
  };
  AwaitFor(&mutex_, absl::Condition(&over), timeout);
  given_up_ = true;
  mutex_.Await(absl::Condition(&none));
}

bool CallGate::AwaitNoCalls(absl::Duration timeout) {
  absl::MutexLock lock(&mutex_);
  const auto over = [this]()
                        ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return hurry_ || num_calls_ == 0; };
  AwaitFor(&mutex_, absl::Condition(&over), timeout);
  return num_calls_ == 0;
}

void CallGate::Sleep(absl::Duration duration) {
  absl::MutexLock lock(&mutex_);
  AwaitFor(&mutex_, absl::Condition(&hurry_), duration);
}

void CallGate::Hurry() {
  absl::MutexLock lock(&mutex_);
  hurry_ = true;
}

bool CallGate::InHurry() const {
  absl::MutexLock lock(&mutex_);
  return hurry_;
}

}  // namespace tessera
