#include "parallel/cluster/control_stream.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/core/monotonic_time.h"

namespace tessera {
namespace {

constexpr absl::Duration kLastWrite = absl::Milliseconds(300);

}  // namespace

ControlStream::ControlStream(FramePipe* pipe, const ControlStreamOptions& options)
    : pipe_(pipe),
      options_(options),
      opener_(options.max_message_bytes),
      heartbeat_timeout_(options.heartbeat_timeout),
      last_heard_(std::chrono::steady_clock::now()),
      writer_([this] { WriteLoop(); }),
      watcher_([this] { WatchLoop(); }) {}

ControlStream::~ControlStream() {
  GiveUp(absl::CancelledError("the stream has been closed"));
  const auto idle = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return !writing_; };
  bool hangs = false;
  {
    absl::MutexLock lock(&mutex_);
    stop_ = true;
    hangs = !AwaitFor(&mutex_, absl::Condition(&idle), kLastWrite);
  }
  if (hangs) pipe_->Cancel();
  writer_.join();
  watcher_.join();
}

void ControlStream::Authenticate(std::string send_key, std::string receive_key) {
  opener_.SetKey(std::move(receive_key));
  absl::MutexLock lock(&mutex_);
  sealer_.SetKey(std::move(send_key));
  authenticated_ = true;
  last_heard_ = std::chrono::steady_clock::now();
}

void ControlStream::SetHeartbeatTimeout(absl::Duration timeout) {
  absl::MutexLock lock(&mutex_);
  heartbeat_timeout_ = timeout;
}

absl::StatusOr<std::string> ControlStream::Receive() {
  v1::cluster::Frame frame;
  while (pipe_->Read(&frame)) {
    absl::StatusOr<std::optional<std::string>> message = opener_.Open(frame);
    if (!message.ok()) {
      GiveUp(message.status());
      break;
    }
    absl::MutexLock lock(&mutex_);
    if (!broken_.ok()) return broken_;
    // A slow handshake is not made longer by talking.
    if (!authenticated_) return **message;
    last_heard_ = std::chrono::steady_clock::now();
    const bool heartbeat = message->has_value() && (*message)->empty();
    if (message->has_value() && !heartbeat) return **std::move(message);
  }
  GiveUp(absl::UnavailableError("its control stream broke"));
  absl::MutexLock lock(&mutex_);
  return broken_;
}

void ControlStream::Send(std::string_view message) {
  absl::MutexLock lock(&mutex_);
  if (broken_.ok()) Enqueue(message);
}

void ControlStream::Enqueue(std::string_view message) {
  for (v1::cluster::Frame& frame : sealer_.Seal(message)) {
    outgoing_bytes_ += frame.body().size();
    outgoing_.push_back(std::move(frame));
  }
}

void ControlStream::Flush(absl::Time deadline) {
  const auto done = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return !broken_.ok() || (outgoing_.empty() && !writing_);
  };
  absl::MutexLock lock(&mutex_);
  AwaitUntil(&mutex_, absl::Condition(&done), deadline);
}

void ControlStream::Break(absl::Status reason) {
  {
    absl::MutexLock lock(&mutex_);
    if (!broken_.ok()) return;
    broken_ = std::move(reason);
  }
  pipe_->Cancel();
}

void ControlStream::GiveUp(const absl::Status& reason) {
  absl::MutexLock lock(&mutex_);
  if (broken_.ok()) broken_ = reason;
}

void ControlStream::WriteLoop() {
  const auto ready = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return stop_ || !outgoing_.empty();
  };
  while (true) {
    v1::cluster::Frame frame;
    {
      absl::MutexLock lock(&mutex_);
      writing_ = false;
      mutex_.Await(absl::Condition(&ready));
      if (stop_) return;
      frame = std::move(outgoing_.front());
      outgoing_.pop_front();
      outgoing_bytes_ -= frame.body().size();
      writing_ = true;
    }
    // Receive reports what broke; the queue then only fills until it is dropped.
    if (!pipe_->Write(frame)) GiveUp(absl::UnavailableError("its control stream broke"));
  }
}

absl::Duration ControlStream::Silence() const {
  return absl::FromChrono(std::chrono::steady_clock::now() - last_heard_);
}

absl::Duration ControlStream::SilenceLimit() const {
  return authenticated_ ? heartbeat_timeout_ : options_.handshake_timeout;
}

absl::Status ControlStream::Watch() {
  if (Silence() >= SilenceLimit()) {
    if (!authenticated_) return absl::DeadlineExceededError("its handshake took too long");
    return absl::UnavailableError(
        absl::StrCat("it has been silent for ", absl::FormatDuration(heartbeat_timeout_)));
  }
  if (!authenticated_) return absl::OkStatus();
  if (outgoing_bytes_ > options_.max_queued_bytes) {
    return absl::UnavailableError("it does not take what is sent to it");
  }
  if (outgoing_.empty()) Enqueue("");
  return absl::OkStatus();
}

void ControlStream::WatchLoop() {
  const auto stopped = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return stop_; };
  while (true) {
    absl::Status verdict;
    {
      absl::MutexLock lock(&mutex_);
      // Often enough for the peer's own limit, and exactly when this one is over.
      const absl::Duration pause =
          std::clamp(SilenceLimit() - Silence(), absl::Milliseconds(1),
                     std::min(options_.heartbeat_interval, heartbeat_timeout_ / 4));
      const absl::Time planned = MonotonicNow() + pause;
      if (AwaitFor(&mutex_, absl::Condition(&stopped), pause)) return;
      // This process has not run: what the peer has said meanwhile is not read yet.
      if (MonotonicNow() - planned >= kStopNoticed) last_heard_ = std::chrono::steady_clock::now();
      if (broken_.ok()) verdict = Watch();
    }
    if (!verdict.ok()) Break(std::move(verdict));
  }
}

}  // namespace tessera
