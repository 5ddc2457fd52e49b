// Bounds what half-sent messages hold: a call whose message does not come is ended.
#ifndef TESSERA_SERVER_GRPC_MESSAGE_INTAKE_H_
#define TESSERA_SERVER_GRPC_MESSAGE_INTAKE_H_

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <thread>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "server/call_gate.h"

namespace tessera {

// Thread-safe. A thread looks at the calls twice a second, and sleeps while there are none.
class MessageIntake {
 public:
  struct Limits {
    // How long the whole message may take.
    absl::Duration patience;
    // Calls that take longer than kSlow. Of more than so many the oldest go: what they hold of
    // unfinished messages is what nobody can see, and up to the largest message each.
    size_t max_slow = 32;
  };
  static constexpr absl::Duration kSlow = absl::Seconds(2);

  // A call that waits for its message.
  class Waiting {
   public:
    virtual ~Waiting() = default;
    // The message will not be waited for any longer. On the intake's thread, once, and not after
    // Leave() has returned true.
    virtual void GiveUp(const absl::Status& why) = 0;
  };
  using Ticket = uint64_t;

  // `gate` outlives this: once it is closed slow calls are told so.
  MessageIntake(const CallGate* gate, Limits limits);
  ~MessageIntake();
  MessageIntake(const MessageIntake&) = delete;
  MessageIntake& operator=(const MessageIntake&) = delete;

  Ticket Enter(std::weak_ptr<Waiting> call);
  // The message is there, or nobody waits for it any more. False when the call is being given up.
  bool Leave(Ticket ticket);
  // The client ends its side without a message. Unless the whole call turns out to have ended, it
  // is given up soon.
  void NothingCame(Ticket ticket);

 private:
  struct Entry {
    absl::Time since;
    std::weak_ptr<Waiting> call;
    bool nothing_came = false;
  };
  using GivenUp = std::pair<std::shared_ptr<Waiting>, absl::Status>;

  void Run();
  // Takes them out of the calls that wait.
  std::vector<GivenUp> Hopeless(absl::Time now);
  absl::Status Verdict(const Entry& entry, absl::Time now, size_t num_slow) const;

  const CallGate& gate_;
  const Limits limits_;
  absl::Mutex mutex_;
  std::map<Ticket, Entry> calls_ ABSL_GUARDED_BY(mutex_);  // in the order of their arrival
  Ticket next_ticket_ ABSL_GUARDED_BY(mutex_) = 1;
  bool stop_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread thread_;  // last: everything it uses exists
};

}  // namespace tessera

#endif  // TESSERA_SERVER_GRPC_MESSAGE_INTAKE_H_
