// What a tenant does on this server, against what it may.
#ifndef TESSERA_SERVER_ACCESS_TENANT_H_
#define TESSERA_SERVER_ACCESS_TENANT_H_

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "engine/types.h"
#include "server/access/api_keys.h"

namespace tessera {

// Which limit refuses a call, in the order of tessera_tenant_refused_total's series.
enum class TenantLimit : uint8_t { kStreams, kRequests, kTokens };
inline constexpr std::array<const char*, 3> kTenantLimitNames = {"streams", "requests", "tokens"};

struct TenantRefusal {
  TenantLimit limit;
  std::string message;
  absl::Duration delay;  // until it may go better
};

// Since the start of the process, but for what is open now.
struct TenantCounts {
  int64_t open = 0;
  int64_t requests = 0;  // that were let in
  int64_t prompt_tokens = 0;
  int64_t generation_tokens = 0;
  std::array<int64_t, kTenantLimitNames.size()> refused{};
};

// A bucket of requests and one of tokens, which fill up steadily: requests to a second's worth (at
// least one), tokens to a minute's. A request takes one of the first when it comes; its tokens are
// taken as they become known, so that the second bucket may owe some, and nobody comes in until it
// does not. Thread-safe; lives as long as a key or a call of the tenant.
class Tenant {
 public:
  Tenant(std::string name, const TenantLimits& limits);

  const std::string& name() const { return name_; }
  // New limits count from now on; what was used stays used.
  void SetLimits(const TenantLimits& limits);
  int32_t priority() const;
  TenantClaim claim() const;

  // Takes a call in: Leave() must follow. `now` is monotonic.
  std::optional<TenantRefusal> Enter(absl::Time now);
  void Leave();
  void UsePromptTokens(int64_t count);
  void UseGeneratedTokens(int64_t count);
  TenantCounts counts() const;

 private:
  struct Bucket {
    double level = 0;
    absl::Time filled = absl::InfinitePast();
    // Adds what has come in since the last time.
    void Fill(absl::Time now, double per_second, double most);
    absl::Duration TimeUntil(double wanted, double per_second) const;
  };
  std::optional<TenantRefusal> Refusal(absl::Time now) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const std::string name_;
  mutable absl::Mutex mutex_;
  TenantLimits limits_ ABSL_GUARDED_BY(mutex_);
  Bucket requests_ ABSL_GUARDED_BY(mutex_);
  Bucket tokens_ ABSL_GUARDED_BY(mutex_);
  TenantCounts counts_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace tessera

#endif  // TESSERA_SERVER_ACCESS_TENANT_H_
