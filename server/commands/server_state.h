// What the signal thread, the engine and the probes of a server tell each other.
#ifndef TESSERA_SERVER_COMMANDS_SERVER_STATE_H_
#define TESSERA_SERVER_COMMANDS_SERVER_STATE_H_

#include <functional>
#include <string_view>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "server/inference_context.h"

namespace tessera {

// Thread-safe. A probe never waits for another one, nor a signal for a probe.
class ServerState {
 public:
  // The first signal asks for a drain, the second cuts it short, the third ends the process; while
  // the model loads the first one ends it.
  void OnSignal(int count);
  void OnEngineDead(const absl::Status& status);

  // From now on requests come in; `accepts` says whether clients get through to the server and may
  // take a moment. Called with null and an empty function it ends that; a probe that began before
  // may still ask the last `accepts`, which owns what it needs.
  void Serve(InferenceContext* context, std::function<absl::Status()> accepts);

  // SIGHUP: files are to be read again, by what was set last; that must not block.
  void OnHangup();
  void SetReload(std::function<void()> reload);

  // Blocks until somebody wants the server to stop; an error when the engine died.
  absl::Status WaitForStop();
  // Why the engine died; also while the server drains.
  absl::Status death() const;

  // For a liveness probe: an error wants a restart.
  absl::Status Healthy(absl::Duration step_timeout) const;
  // For a readiness probe: an error wants no new requests, and its text says why.
  absl::Status Ready() const;
  // The same as one of kUnreadyReasons; empty: ready.
  std::string_view UnreadyReason() const;

 private:
  struct Readiness {
    std::string_view reason;  // one of kUnreadyReasons, or empty
    absl::Status status;
  };
  Readiness Look() const;
  // What can be said without asking `accepts_`.
  Readiness LookInside() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  mutable absl::Mutex mutex_;
  InferenceContext* context_ ABSL_GUARDED_BY(mutex_) = nullptr;
  std::function<absl::Status()> accepts_ ABSL_GUARDED_BY(mutex_);
  absl::Status death_ ABSL_GUARDED_BY(mutex_);
  std::function<void()> reload_ ABSL_GUARDED_BY(mutex_);
  bool stop_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace tessera

#endif  // TESSERA_SERVER_COMMANDS_SERVER_STATE_H_
