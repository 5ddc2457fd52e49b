// One end of a control stream: messages in, messages out, heartbeats, and the decision that the
// peer is dead. Both the head and the nodes use it.
#ifndef TESSERA_PARALLEL_CLUSTER_CONTROL_STREAM_H_
#define TESSERA_PARALLEL_CLUSTER_CONTROL_STREAM_H_

#include <chrono>
#include <cstdint>
#include <deque>
#include <string>
#include <string_view>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "parallel/cluster/control_stream_options.h"
#include "parallel/cluster/frames.h"

namespace tessera {

// Carries frames both ways. Read and Write block and may run at the same time on two threads;
// false: the pipe is broken for good. Cancel breaks it. Any thread.
class FramePipe {
 public:
  virtual ~FramePipe() = default;
  virtual bool Read(v1::cluster::Frame* frame) = 0;
  virtual bool Write(const v1::cluster::Frame& frame) = 0;
  virtual void Cancel() = 0;
};

// Starts in the clear, for the handshake, which must be over in time.
class ControlStream {
 public:
  // `pipe` must outlive the stream.
  ControlStream(FramePipe* pipe, const ControlStreamOptions& options);
  // Leaves the pipe whole unless a write hangs in it: what was sent before still arrives, and the
  // pipe may end with a reason. No Receive may be under way.
  ~ControlStream();
  ControlStream(const ControlStream&) = delete;
  ControlStream& operator=(const ControlStream&) = delete;

  // The handshake is over: from the next message on both directions are authenticated and
  // heartbeats flow. On the thread that receives.
  void Authenticate(std::string send_key, std::string receive_key);

  // Replaces the option. Any thread.
  void SetHeartbeatTimeout(absl::Duration timeout);

  // The next message that is not a heartbeat. One thread. Errors are sticky: UNAVAILABLE when the
  // peer is gone or silent, INVALID_ARGUMENT when it sends what it must not.
  absl::StatusOr<std::string> Receive();
  // Enqueues; never blocks. Any thread.
  void Send(std::string_view message);
  // Waits until everything sent so far has been handed to the transport, or the stream is broken.
  void Flush(absl::Time deadline);
  // Ends the stream and cancels the pipe; the first reason is what Receive returns. Any thread.
  void Break(absl::Status reason);

 private:
  // The stream is of no use any more; the pipe ends by itself.
  void GiveUp(const absl::Status& reason);
  void WriteLoop();
  void WatchLoop();
  // Judges the peer's silence; enqueues a heartbeat when nothing else flows.
  absl::Status Watch() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // How long the peer has been silent, and may be.
  absl::Duration Silence() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Duration SilenceLimit() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Enqueue(std::string_view message) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  FramePipe* const pipe_;
  const ControlStreamOptions options_;
  FrameOpener opener_;  // receiving thread
  absl::Mutex mutex_;
  FrameSealer sealer_ ABSL_GUARDED_BY(mutex_);
  std::deque<v1::cluster::Frame> outgoing_ ABSL_GUARDED_BY(mutex_);
  size_t outgoing_bytes_ ABSL_GUARDED_BY(mutex_) = 0;
  bool writing_ ABSL_GUARDED_BY(mutex_) = false;
  bool authenticated_ ABSL_GUARDED_BY(mutex_) = false;
  bool stop_ ABSL_GUARDED_BY(mutex_) = false;
  absl::Duration heartbeat_timeout_ ABSL_GUARDED_BY(mutex_);
  std::chrono::steady_clock::time_point last_heard_ ABSL_GUARDED_BY(mutex_);
  absl::Status broken_ ABSL_GUARDED_BY(mutex_);
  std::thread writer_;
  std::thread watcher_;
};

}  // namespace tessera

#endif  // TESSERA_PARALLEL_CLUSTER_CONTROL_STREAM_H_
