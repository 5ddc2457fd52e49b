#include "server/commands/server_state.h"

#include <cstdlib>
#include <string>
#include <utility>

#include "server/commands/command.h"
#include "server/logging.h"

namespace tessera {

void ServerState::OnSignal(int count) {
  absl::MutexLock lock(&mutex_);
  if (context_ == nullptr) {
    LogInfo("stopped while loading");
    FlushLog();
    std::_Exit(kExitOk);
  }
  if (count > 2) std::_Exit(kExitFailure);
  if (count == 2) {
    LogWarning("second signal: ending the running requests");
    context_->active.CancelAll(*context_->engine, absl::UnavailableError("the server stops"));
    context_->gate.Hurry();
  }
  context_->ready = false;
  stop_ = true;
}

void ServerState::OnEngineDead(const absl::Status& status) {
  absl::MutexLock lock(&mutex_);
  if (death_.ok()) LogError(std::string(status.message()));
  death_ = status;
  stop_ = true;
  if (context_ != nullptr) context_->ready = false;
}

void ServerState::Serve(InferenceContext* context, std::function<absl::Status()> accepts) {
  absl::MutexLock lock(&mutex_);
  context_ = context;
  accepts_ = std::move(accepts);
  if (context != nullptr && !death_.ok()) context->ready = false;
}

void ServerState::OnHangup() {
  absl::MutexLock lock(&mutex_);
  if (reload_) reload_();
}

void ServerState::SetReload(std::function<void()> reload) {
  absl::MutexLock lock(&mutex_);
  reload_ = std::move(reload);
}

absl::Status ServerState::WaitForStop() {
  absl::MutexLock lock(&mutex_);
  mutex_.Await(absl::Condition(&stop_));
  return death_;
}

absl::Status ServerState::death() const {
  absl::MutexLock lock(&mutex_);
  return death_;
}

absl::Status ServerState::Healthy(absl::Duration step_timeout) const {
  absl::MutexLock lock(&mutex_);
  if (!death_.ok()) return absl::UnavailableError("the engine has failed");
  if (context_ == nullptr) return absl::OkStatus();
  if (context_->engine->stats().step_age > step_timeout) {
    return absl::UnavailableError("no step has finished for too long");
  }
  return absl::OkStatus();
}

absl::Status ServerState::Ready() const { return Look().status; }

std::string_view ServerState::UnreadyReason() const { return Look().reason; }

ServerState::Readiness ServerState::Look() const {
  std::function<absl::Status()> accepts;
  {
    absl::MutexLock lock(&mutex_);
    Readiness inside = LookInside();
    if (!inside.status.ok()) return inside;
    accepts = accepts_;
  }
  absl::Status status = accepts();
  return {.reason = status.ok() ? "" : "not_accepting", .status = std::move(status)};
}

ServerState::Readiness ServerState::LookInside() const {
  if (context_ == nullptr) return {"loading", absl::UnavailableError("loading")};
  if (!death_.ok()) return {"failed", absl::UnavailableError("the engine has failed")};
  if (!context_->ready.load()) return {"draining", absl::UnavailableError("draining")};
  if (context_->IsSaturated()) {
    return {"saturated", absl::UnavailableError("saturated: the queue is full")};
  }
  return {};
}

}  // namespace tessera
