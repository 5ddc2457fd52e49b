// Messages between the ranks of one group over Gloo, with deadlines and a sticky failure. The only
// file that sees Gloo's headers includes this one.
#ifndef TESSERA_PARALLEL_GLOO_MESSAGE_EXCHANGE_H_
#define TESSERA_PARALLEL_GLOO_MESSAGE_EXCHANGE_H_

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "parallel/gloo/gloo_communicator.h"

namespace gloo {
class Context;
namespace transport {
class Device;
class UnboundBuffer;
}  // namespace transport
}  // namespace gloo

namespace tessera {

class LoopTasks;

class GlooEndpoint {
 public:
  GlooEndpoint(std::shared_ptr<gloo::transport::Device> device, std::unique_ptr<LoopTasks> tasks);
  ~GlooEndpoint();
  std::shared_ptr<gloo::transport::Device>& device() { return device_; }
  LoopTasks& tasks() { return *tasks_; }

 private:
  std::shared_ptr<gloo::transport::Device> device_;
  std::unique_ptr<LoopTasks> tasks_;
};

// Bytes to or from a peer. Messages of one round between the same two ranks have distinct tags;
// both sides agree on tag and size. Empty messages are not sent.
struct RankMessage {
  int peer = 0;
  uint32_t tag = 0;  // below 256
  char* data = nullptr;
  int64_t bytes = 0;
};

// Used by the thread that executes the device's queue, except Fail and status.
class MessageExchange {
 public:
  MessageExchange(std::shared_ptr<GlooEndpoint> endpoint, const GlooGroup& group);
  ~MessageExchange();

  absl::Status Connect(RendezvousStore* store);

  // A round: operations that belong together, in the same order on all ranks. Post as often as
  // needed, then Finish, which waits for all that was posted; FinishReceives waits for receives
  // only.
  void BeginRound() { BeginRound(group_.timeout); }
  absl::Status PostReceive(const RankMessage& message);
  absl::Status PostSend(const RankMessage& message);
  absl::Status FinishReceives();
  absl::Status Finish();

  // Fails all rounds (the first reason wins), wakes the waiting one and closes the connections, so
  // that peers notice. Returns the sticky status. Any thread.
  absl::Status Fail(const absl::Status& reason);
  absl::Status status() const;

 private:
  struct Pending {
    int peer = 0;
    bool send = false;
    std::unique_ptr<gloo::transport::UnboundBuffer> buffer;
  };
  // What the I/O thread has to start.
  struct Operation {
    gloo::transport::UnboundBuffer* buffer = nullptr;
    int peer = 0;
    bool send = false;
    uint64_t slot = 0;
  };

  void BeginRound(absl::Duration timeout);
  absl::Status Greet(absl::Duration timeout);
  absl::Status Post(const RankMessage& message, bool send);
  // Starts everything posted since the last time; returns when that is done.
  absl::Status Start();
  void StartOnLoop();
  absl::Status Wait(const Pending& pending);
  absl::Status PeerFailed(int peer, const char* what);

  const std::shared_ptr<GlooEndpoint> endpoint_;
  const GlooGroup group_;
  std::shared_ptr<gloo::Context> context_;
  uint64_t round_ = 0;
  absl::Duration timeout_;  // of the current round
  absl::Time deadline_;

  // Handed to the I/O thread by Start, and back by counting up *started_.
  std::vector<Operation> operations_;
  std::string start_error_;
  int start_error_peer_ = 0;
  // Shared with the I/O thread, which still wakes the waiting thread when that goes on already.
  const std::shared_ptr<std::atomic<uint32_t>> started_ =
      std::make_shared<std::atomic<uint32_t>>(0);
  std::mutex start_mutex_;  // after mutex_; held while operations start
  bool closed_ = false;     // guarded by start_mutex_

  mutable std::mutex mutex_;
  absl::Status reason_;           // guarded by mutex_
  std::vector<Pending> pending_;  // changed under mutex_; read by its owner without
};

}  // namespace tessera

#endif  // TESSERA_PARALLEL_GLOO_MESSAGE_EXCHANGE_H_
