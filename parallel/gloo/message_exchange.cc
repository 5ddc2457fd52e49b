#include "parallel/gloo/message_exchange.h"

#include <dirent.h>
#include <gloo/rendezvous/context.h>
#include <gloo/rendezvous/store.h>
#include <gloo/transport/tcp/device.h>
#include <gloo/transport/unbound_buffer.h>
#include <net/if.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <algorithm>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <stdexcept>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "kernels/core/monotonic_time.h"
#include "kernels/core/status_macros.h"
#include "parallel/gloo/loop_tasks.h"

namespace tessera {
namespace {

constexpr int kSendBufferBytes = 4 << 20;
constexpr uint64_t kTagsPerRound = 256;

// Gloo's view of a RendezvousStore; failures become exceptions, which Connect catches.
class StoreAdapter : public gloo::rendezvous::Store {
 public:
  StoreAdapter(RendezvousStore* store, const GlooGroup& group) : store_(store), group_(group) {}

  void set(const std::string& key, const std::vector<char>& data) override {
    Check(store_->Set(KeyOf(key), std::string(data.begin(), data.end())));
  }
  std::vector<char> get(const std::string& key) override {
    const absl::StatusOr<std::string> value = store_->Get(KeyOf(key), group_.connect_timeout);
    Check(value.status());
    return {value->begin(), value->end()};
  }
  void wait(const std::vector<std::string>& keys) override {
    for (const std::string& key : keys) get(key);
  }
  void wait(const std::vector<std::string>& keys, const std::chrono::milliseconds&) override {
    wait(keys);
  }

  const absl::Status& failure() const { return failure_; }

 private:
  std::string KeyOf(const std::string& key) const {
    return absl::StrCat(group_.name, "/rank ", key);
  }
  void Check(const absl::Status& status) {
    if (status.ok()) return;
    failure_ = status;
    throw std::runtime_error(std::string(status.message()));
  }

  RendezvousStore* store_;
  const GlooGroup& group_;
  absl::Status failure_;
};

bool IsLoopback(const sockaddr_storage& address) {
  if (address.ss_family == AF_INET) {
    const auto& v4 = reinterpret_cast<const sockaddr_in&>(address);
    return (ntohl(v4.sin_addr.s_addr) >> 24) == 127;
  }
  if (address.ss_family == AF_INET6) {
    return IN6_IS_ADDR_LOOPBACK(&reinterpret_cast<const sockaddr_in6&>(address).sin6_addr);
  }
  return false;
}

bool SameEnd(const sockaddr_storage& a, const sockaddr_storage& b) {
  const size_t bytes = a.ss_family == AF_INET6 ? sizeof(sockaddr_in6) : sizeof(sockaddr_in);
  return a.ss_family == b.ss_family && std::memcmp(&a, &b, bytes) == 0;
}

// On the loopback device some Gloo versions pin a send buffer of a few kilobytes, and every
// megabyte then waits 44 ms for delayed acknowledgements. Gloo shows no socket, only the local
// address of a connection: the sockets with these addresses get a larger buffer.
void RaiseLoopbackSendBuffers(const std::vector<sockaddr_storage>& ends) {
  DIR* folder = opendir("/proc/self/fd");
  if (folder == nullptr) return;
  while (const dirent* entry = readdir(folder)) {  // NOLINT(concurrency-mt-unsafe): own stream
    const int socket = std::atoi(entry->d_name);
    sockaddr_storage local{};
    socklen_t length = sizeof(local);
    if (getsockname(socket, reinterpret_cast<sockaddr*>(&local), &length) != 0) continue;
    if (std::none_of(ends.begin(), ends.end(),
                     [&local](const auto& end) { return SameEnd(end, local); })) {
      continue;
    }
    int bytes = 0;
    length = sizeof(bytes);
    getsockopt(socket, SOL_SOCKET, SO_SNDBUF, &bytes, &length);
    if (bytes >= kSendBufferBytes / 4) continue;
    setsockopt(socket, SOL_SOCKET, SO_SNDBUF, &kSendBufferBytes, sizeof(kSendBufferBytes));
  }
  closedir(folder);
}

// Gloo writes to sockets without MSG_NOSIGNAL: the death of a peer would kill this process before
// the failed write is reported. A handler that somebody installed stays.
void SurvivePeers() {
  struct sigaction action {};
  if (sigaction(SIGPIPE, nullptr, &action) != 0 || action.sa_handler != SIG_DFL) return;
  action.sa_handler = SIG_IGN;
  sigaction(SIGPIPE, &action, nullptr);
}

std::string Interfaces() {
  std::vector<std::string> names;
  struct if_nameindex* all = if_nameindex();
  for (const auto* one = all; one != nullptr && one->if_index != 0; ++one) {
    names.emplace_back(one->if_name);
  }
  if (all != nullptr) if_freenameindex(all);
  return names.empty() ? "none" : absl::StrJoin(names, ", ");
}

std::vector<sockaddr_storage> LoopbackEnds(gloo::Context& context) {
  std::vector<sockaddr_storage> ends;
  for (int peer = 0; peer < context.size; ++peer) {
    if (peer == context.rank) continue;
    const std::vector<char> bytes = context.getPair(peer)->address().bytes();
    sockaddr_storage end{};
    std::memcpy(&end, bytes.data(), std::min(bytes.size(), sizeof(end)));
    if (IsLoopback(end)) ends.push_back(end);
  }
  return ends;
}

}  // namespace

GlooEndpoint::GlooEndpoint(std::shared_ptr<gloo::transport::Device> device,
                           std::unique_ptr<LoopTasks> tasks)
    : device_(std::move(device)), tasks_(std::move(tasks)) {}
GlooEndpoint::~GlooEndpoint() = default;

absl::StatusOr<std::shared_ptr<GlooEndpoint>> CreateGlooEndpoint(
    const GlooEndpointOptions& options) {
  if (options.interface.empty() == options.address.empty()) {
    return absl::InvalidArgumentError(
        "name either the network interface or the address that ranks communicate over");
  }
  // Asked here: Gloo loses memory when it does not find the interface.
  if (!options.interface.empty() && if_nametoindex(options.interface.c_str()) == 0) {
    return absl::UnavailableError(absl::StrCat("this host has no network interface '",
                                               options.interface, "'; it has ", Interfaces()));
  }
  SurvivePeers();
  try {
    gloo::transport::tcp::attr attr;
    attr.iface = options.interface;
    attr.hostname = options.address;
    auto device = gloo::transport::tcp::CreateDevice(attr);
    ASSIGN_OR_RETURN(auto tasks,
                     LoopTasks::Create(dynamic_cast<gloo::transport::tcp::Device*>(device.get())));
    return std::make_shared<GlooEndpoint>(std::move(device), std::move(tasks));
  } catch (const std::exception& error) {
    return absl::UnavailableError(absl::StrCat("cannot communicate over ", options.interface,
                                               options.address, ": ", error.what()));
  }
}

MessageExchange::MessageExchange(std::shared_ptr<GlooEndpoint> endpoint, const GlooGroup& group)
    : endpoint_(std::move(endpoint)), group_(group) {}

MessageExchange::~MessageExchange() {
  Fail(absl::UnavailableError(absl::StrCat("rank ", group_.rank, " left the group"))).IgnoreError();
}

absl::Status MessageExchange::Connect(RendezvousStore* store) {
  StoreAdapter adapter(store, group_);
  const absl::Time deadline = MonotonicNow() + group_.connect_timeout;
  try {
    auto context = std::make_shared<gloo::rendezvous::Context>(group_.rank, group_.size);
    context->setTimeout(absl::ToChronoMilliseconds(group_.connect_timeout));
    context->connectFullMesh(adapter, endpoint_->device());
    if (const auto ends = LoopbackEnds(*context); !ends.empty()) RaiseLoopbackSendBuffers(ends);
    context_ = std::move(context);
  } catch (const std::exception& error) {
    const std::string where = absl::StrCat("rank ", group_.rank, " cannot join the group '",
                                           group_.name, "' of ", group_.size, " ranks: ");
    if (!adapter.failure().ok()) {
      return Fail(
          absl::Status(adapter.failure().code(), absl::StrCat(where, adapter.failure().message())));
    }
    if (MonotonicNow() >= deadline) {
      return Fail(absl::DeadlineExceededError(absl::StrCat(where, error.what())));
    }
    return Fail(absl::UnavailableError(absl::StrCat(where, error.what())));
  }
  return Greet(deadline - MonotonicNow());
}

// A byte to and from everyone: nobody goes on, and perhaps away, while another still connects.
absl::Status MessageExchange::Greet(absl::Duration timeout) {
  std::vector<char> greetings(group_.size);
  char own = 1;
  BeginRound(timeout);
  for (int peer = 0; peer < group_.size; ++peer) {
    if (peer == group_.rank) continue;
    RETURN_IF_ERROR(PostReceive({peer, 0, &greetings[peer], 1}));
    RETURN_IF_ERROR(PostSend({peer, 0, &own, 1}));
  }
  return Finish();
}

void MessageExchange::BeginRound(absl::Duration timeout) {
  ++round_;
  timeout_ = timeout;
  deadline_ = MonotonicNow() + timeout;
}

absl::Status MessageExchange::PostReceive(const RankMessage& message) {
  return Post(message, false);
}
absl::Status MessageExchange::PostSend(const RankMessage& message) { return Post(message, true); }

absl::Status MessageExchange::Post(const RankMessage& message, bool send) {
  if (message.bytes == 0) return absl::OkStatus();
  TESSERA_CHECK(message.tag < kTagsPerRound);
  const uint64_t slot = round_ * kTagsPerRound + message.tag;
  try {
    const std::lock_guard lock(mutex_);
    if (!reason_.ok()) return reason_;
    pending_.push_back(
        {message.peer, send, context_->createUnboundBuffer(message.data, message.bytes)});
    operations_.push_back({pending_.back().buffer.get(), message.peer, send, slot});
    return absl::OkStatus();
  } catch (const std::exception& error) {
    return PeerFailed(message.peer, error.what());
  }
}

absl::Status MessageExchange::Start() {
  if (operations_.empty()) return status();
  const uint32_t before = started_->load(std::memory_order_relaxed);
  endpoint_->tasks().Run([this, started = started_] {
    StartOnLoop();
    started->fetch_add(1, std::memory_order_release);
    started->notify_one();
  });
  started_->wait(before, std::memory_order_acquire);
  operations_.clear();
  if (!start_error_.empty()) return PeerFailed(start_error_peer_, start_error_.c_str());
  return status();
}

// Must not wait for anybody: Fail() closes connections while it waits for the I/O thread.
void MessageExchange::StartOnLoop() {
  const std::lock_guard lock(start_mutex_);
  for (const Operation& operation : operations_) {
    if (closed_) return;
    try {
      if (operation.send) {
        operation.buffer->send(operation.peer, operation.slot);
      } else {
        operation.buffer->recv(operation.peer, operation.slot);
      }
    } catch (const std::exception& error) {
      start_error_ = error.what();
      start_error_peer_ = operation.peer;
      return;
    }
  }
}

absl::Status MessageExchange::Wait(const Pending& pending) {
  const auto left = std::max(absl::ToChronoMilliseconds(deadline_ - MonotonicNow()),
                             std::chrono::milliseconds(1));
  try {
    const bool done =
        pending.send ? pending.buffer->waitSend(left) : pending.buffer->waitRecv(left);
    // Only Fail() wakes a wait without a result.
    return done ? absl::OkStatus() : status();
  } catch (const std::exception& error) {
    return PeerFailed(pending.peer, error.what());
  }
}

absl::Status MessageExchange::FinishReceives() {
  RETURN_IF_ERROR(Start());
  for (const Pending& pending : pending_) {
    if (!pending.send) RETURN_IF_ERROR(Wait(pending));
  }
  const std::lock_guard lock(mutex_);
  std::erase_if(pending_, [](const Pending& pending) { return !pending.send; });
  return reason_;
}

absl::Status MessageExchange::Finish() {
  RETURN_IF_ERROR(Start());
  for (const Pending& pending : pending_) RETURN_IF_ERROR(Wait(pending));
  const std::lock_guard lock(mutex_);
  pending_.clear();
  return reason_;
}

absl::Status MessageExchange::PeerFailed(int peer, const char* what) {
  if (MonotonicNow() >= deadline_) {
    return Fail(absl::DeadlineExceededError(absl::StrCat(
        "rank ", group_.rank, " waited ", absl::FormatDuration(timeout_), " for rank ", peer)));
  }
  return Fail(absl::UnavailableError(
      absl::StrCat("rank ", group_.rank, " lost its connection to rank ", peer, ": ", what)));
}

absl::Status MessageExchange::Fail(const absl::Status& reason) {
  const std::lock_guard lock(mutex_);
  if (!reason_.ok()) return reason_;
  reason_ = reason;
  {
    const std::lock_guard starting(start_mutex_);
    closed_ = true;
  }
  try {
    if (context_ != nullptr) context_->closeConnections();
    for (const Pending& pending : pending_) {
      pending.buffer->abortWaitRecv();
      pending.buffer->abortWaitSend();
    }
  } catch (const std::exception&) {
    // The group is unusable either way, and the reason is kept.
  }
  return reason_;
}

absl::Status MessageExchange::status() const {
  const std::lock_guard lock(mutex_);
  return reason_;
}

}  // namespace tessera
