// The generations that are open: unique names, a cap, and the way from a name to the engine's id.
#ifndef TESSERA_SERVER_ACTIVE_REQUESTS_H_
#define TESSERA_SERVER_ACTIVE_REQUESTS_H_

#include <cstdint>
#include <optional>
#include <string>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "engine/types.h"

namespace tessera {

class Engine;

// Thread-safe.
class ActiveRequests {
 public:
  explicit ActiveRequests(int32_t limit) : limit_(limit) {}

  // A call of the tenant has come: it counts until Leave(). RESOURCE_EXHAUSTED when there is no
  // room: at the limit there is only for tenants who have less than their part of it, by weight
  // among those who have calls open, so that others cannot shut them out. All together have at most
  // twice the limit.
  absl::Status Enter(const TenantClaim& tenant);
  // Registers the name of a call that has entered, or a fresh one when it is empty, and returns it.
  // ALREADY_EXISTS when it is in use.
  absl::StatusOr<std::string> Name(const std::string& name);
  // Tells the engine's id. False when the request was aborted in between: cancel it.
  bool Submitted(const std::string& name, RequestId id);
  // The engine is done with it: the name may be used again.
  void Release(const std::string& name);
  // The call's end is on its way to the client.
  void Leave(const TenantClaim& tenant);
  // A call that has left, but whose client does not read its end: counts until it leaves again.
  void Linger(const TenantClaim& tenant);
  struct Found {
    std::optional<RequestId> engine_id;  // unset: not yet submitted; Submitted() will tell
  };
  // Marks the request as aborted; unset when there is none of that name.
  std::optional<Found> Abort(const std::string& name);

  // Ends every request that the engine knows with `status`.
  void CancelAll(Engine& engine, const absl::Status& status);

  // Calls that count.
  int32_t size() const;

 private:
  struct Entry {
    std::optional<RequestId> engine_id;
    bool aborted = false;
  };

  struct Open {
    int32_t calls = 0;
    double weight = 1;
  };
  bool HasRoom(const TenantClaim& tenant) const ABSL_SHARED_LOCKS_REQUIRED(mutex_);
  void Count(const TenantClaim& tenant) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const int32_t limit_;
  mutable absl::Mutex mutex_;
  int32_t num_open_ ABSL_GUARDED_BY(mutex_) = 0;
  absl::flat_hash_map<std::string, Open> tenants_ ABSL_GUARDED_BY(mutex_);  // who have calls
  absl::flat_hash_map<std::string, Entry> entries_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace tessera

#endif  // TESSERA_SERVER_ACTIVE_REQUESTS_H_
