#include "server/grpc/health.h"

#include <optional>
#include <string>
#include <utility>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "grpc/health/v1/health.pb.h"
#include "kernels/core/status_macros.h"
#include "server/grpc/message_buffer.h"
#include "server/grpc/status_mapping.h"
#include "tessera/v1/inference.grpc.pb.h"

namespace tessera {
namespace {

using grpc::health::v1::HealthCheckRequest;
using grpc::health::v1::HealthCheckResponse;

// A request is the name of a service.
constexpr int64_t kMaxRequestBytes = 4 << 10;

// Whether this server has the service that is asked for.
absl::StatusOr<bool> Knows(const grpc::ByteBuffer& message, std::string* service) {
  ASSIGN_OR_RETURN(HealthCheckRequest request,
                   ParseBuffer<HealthCheckRequest>(message, kMaxRequestBytes));
  *service = request.service();
  return service->empty() || *service == v1::Inference::service_full_name();
}

grpc::ByteBuffer ToMessage(HealthCheckResponse::ServingStatus status) {
  HealthCheckResponse response;
  response.set_status(status);
  return ToBuffer(response);
}

grpc::ByteBuffer ToMessage(bool serving) {
  return ToMessage(serving ? HealthCheckResponse::SERVING : HealthCheckResponse::NOT_SERVING);
}

class CheckCall final : public ReceivedCall {
 public:
  CheckCall(const GrpcCall& call, const Health& health) : call_(call), health_(health) {}

  void Start(std::shared_ptr<CheckCall> self) {
    Hold(std::move(self));
    Receive(call_.intake);
  }

 private:
  void OnMessage(const grpc::ByteBuffer& message) override {
    std::string service;
    const absl::StatusOr<bool> known = Knows(message, &service);
    if (!known.ok()) return End(known.status());
    if (!*known) {
      return End(
          absl::NotFoundError(absl::StrCat("there is no service ", service, "; ask for \"\" or ",
                                           v1::Inference::service_full_name())));
    }
    response_ = ToMessage(health_.serving());
    StartWriteAndFinish(&response_, grpc::WriteOptions(), grpc::Status::OK);
  }
  void OnNoMessage(const absl::Status& why) override { End(why); }
  void OnClientGone(bool before_message) override {
    if (before_message) End(absl::CancelledError("the client cancelled the call"));
  }
  void End(const absl::Status& status) { Finish(ToGrpcStatus(status, call_.call)); }

  const GrpcCall call_;
  const Health& health_;
  grpc::ByteBuffer response_;
};

// Writes the state whenever it differs from what was written last. At most one write is in flight:
// a client that does not read costs one message, and hears of the newest state only.
class WatchCall final : public ReceivedCall,
                        public Health::Watcher,
                        public std::enable_shared_from_this<WatchCall> {
 public:
  WatchCall(const GrpcCall& call, Health* health) : call_(call), health_(*health) {}

  void Start() {
    Hold(shared_from_this());
    Receive(call_.intake);
  }

  void OnChange() override {
    absl::MutexLock lock(&mutex_);
    Tell();
  }

  void OnWriteDone(bool ok) override {
    absl::MutexLock lock(&mutex_);
    is_writing_ = false;
    if (ok) Tell();
  }

 private:
  void OnMessage(const grpc::ByteBuffer& message) override {
    std::string service;
    const absl::StatusOr<bool> known = Knows(message, &service);
    if (!known.ok()) return OnNoMessage(known.status());
    {
      absl::MutexLock lock(&mutex_);
      if (ended_) return;
      if (!*known) {
        response_ = ToMessage(HealthCheckResponse::SERVICE_UNKNOWN);
        is_writing_ = true;
        return StartWrite(&response_);
      }
      watches_ = true;
    }
    health_.Add(weak_from_this());
    OnChange();
  }
  void OnNoMessage(const absl::Status& why) override {
    absl::MutexLock lock(&mutex_);
    End(why);
  }
  void OnClientGone(bool /*before_message*/) override {
    absl::MutexLock lock(&mutex_);
    End(absl::CancelledError("the client cancelled the call"));
  }

  void Tell() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    const bool serving = health_.serving();
    if (!watches_ || ended_ || is_writing_ || told_ == serving) return;
    told_ = serving;
    is_writing_ = true;
    response_ = ToMessage(serving);
    StartWrite(&response_);
  }
  void End(const absl::Status& status) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    if (std::exchange(ended_, true)) return;
    Finish(ToGrpcStatus(status, call_.call));
  }

  const GrpcCall call_;
  Health& health_;
  absl::Mutex mutex_;  // before the health's
  grpc::ByteBuffer response_ ABSL_GUARDED_BY(mutex_);
  bool watches_ ABSL_GUARDED_BY(mutex_) = false;
  bool is_writing_ ABSL_GUARDED_BY(mutex_) = false;
  bool ended_ ABSL_GUARDED_BY(mutex_) = false;
  std::optional<bool> told_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace

void Health::Set(bool serving) {
  std::vector<std::shared_ptr<Watcher>> watchers;
  {
    absl::MutexLock lock(&mutex_);
    serving_ = serving;
    for (const std::weak_ptr<Watcher>& watcher : watchers_) {
      if (auto alive = watcher.lock()) watchers.push_back(std::move(alive));
    }
  }
  for (const std::shared_ptr<Watcher>& watcher : watchers) watcher->OnChange();
}

bool Health::serving() const {
  absl::MutexLock lock(&mutex_);
  return serving_;
}

void Health::Add(std::weak_ptr<Watcher> watcher) {
  absl::MutexLock lock(&mutex_);
  std::erase_if(watchers_, [](const std::weak_ptr<Watcher>& one) { return one.expired(); });
  watchers_.push_back(std::move(watcher));
}

grpc::ServerGenericBidiReactor* Health::Check(const GrpcCall& call) {
  auto reactor = std::make_shared<CheckCall>(call, *this);
  CheckCall* const raw = reactor.get();
  raw->Start(std::move(reactor));
  return raw;
}

grpc::ServerGenericBidiReactor* Health::Watch(const GrpcCall& call) {
  const auto reactor = std::make_shared<WatchCall>(call, this);
  reactor->Start();
  return reactor.get();
}

}  // namespace tessera
