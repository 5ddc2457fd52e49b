// grpc.health.v1.Health: what probes, balancers and client libraries ask.
#ifndef TESSERA_SERVER_GRPC_HEALTH_H_
#define TESSERA_SERVER_GRPC_HEALTH_H_

#include <memory>
#include <string_view>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "server/grpc/received_call.h"

namespace tessera {

// The health of the server as a whole ("") and of its service, which are the same. Thread-safe;
// outlives the calls.
class Health {
 public:
  static constexpr std::string_view kService = "grpc.health.v1.Health";

  // Tells all who watch.
  void Set(bool serving);
  bool serving() const;

  // Everybody may ask.
  grpc::ServerGenericBidiReactor* Check(const GrpcCall& call);
  grpc::ServerGenericBidiReactor* Watch(const GrpcCall& call);

  // Somebody who is told about every change, and asks for the state himself.
  class Watcher {
   public:
    virtual ~Watcher() = default;
    virtual void OnChange() = 0;
  };
  void Add(std::weak_ptr<Watcher> watcher);

 private:
  mutable absl::Mutex mutex_;
  bool serving_ ABSL_GUARDED_BY(mutex_) = false;
  std::vector<std::weak_ptr<Watcher>> watchers_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace tessera

#endif  // TESSERA_SERVER_GRPC_HEALTH_H_
