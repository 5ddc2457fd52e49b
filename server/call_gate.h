// Counts the generation calls that are open, so that a drain loses none: neither those that are on
// their way to the engine nor those whose last messages are on their way to the client.
#ifndef TESSERA_SERVER_CALL_GATE_H_
#define TESSERA_SERVER_CALL_GATE_H_

#include <cstdint>
#include <optional>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"

namespace tessera {

// Thread-safe.
class CallGate {
 public:
  CallGate() = default;
  // Waits until every call is closed: what they use goes next. gRPC must have been shut down, and
  // the engine must still run.
  ~CallGate();
  CallGate(const CallGate&) = delete;
  CallGate& operator=(const CallGate&) = delete;

  // A call lives from its arrival until both gRPC and the engine have let go of it.
  void CallOpened();
  void CallClosed();

  // A request on its way to the engine, until the engine has taken or refused it.
  class Submission {
   public:
    Submission(Submission&& other) noexcept : gate_(std::exchange(other.gate_, nullptr)) {}
    Submission& operator=(Submission&&) = delete;
    ~Submission();

   private:
    friend class CallGate;
    explicit Submission(CallGate* gate) : gate_(gate) {}
    CallGate* gate_;
  };
  // Nothing when the gate is closed: refuse the request.
  std::optional<Submission> BeginSubmission();
  bool closed() const;
  // Whether a submission that waits for a thread has waited in vain: refuse it.
  bool HasGivenUp() const;

  // From now on nothing is submitted. Waits for the submissions under way. Those that are still
  // waiting for a thread after `timeout`, or when somebody is in a hurry, are given up; the others
  // last no longer than it takes to tokenise one message.
  void Close(absl::Duration timeout);
  // Waits until no call is open; false after `timeout`, or when somebody is in a hurry.
  bool AwaitNoCalls(absl::Duration timeout);
  // Waits for `duration`, or until somebody is in a hurry.
  void Sleep(absl::Duration duration);
  // Ends AwaitNoCalls() and Sleep(), now and later.
  void Hurry();
  bool InHurry() const;

 private:
  mutable absl::Mutex mutex_;
  int32_t num_calls_ ABSL_GUARDED_BY(mutex_) = 0;
  int32_t num_submissions_ ABSL_GUARDED_BY(mutex_) = 0;
  bool closed_ ABSL_GUARDED_BY(mutex_) = false;
  bool given_up_ ABSL_GUARDED_BY(mutex_) = false;
  bool hurry_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace tessera

#endif  // TESSERA_SERVER_CALL_GATE_H_
