// How much may wait: requests and prompt tokens, and who gives way when more comes.
#ifndef TESSERA_ENGINE_SCHEDULER_QUEUE_LIMITS_H_
#define TESSERA_ENGINE_SCHEDULER_QUEUE_LIMITS_H_

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/options.h"
#include "engine/types.h"

namespace tessera {

struct QueuedRequest {
  RequestId id{};
  int32_t priority = 0;  // lower runs first
  int64_t tokens = 0;    // of the prompt
  std::string tenant;    // see TenantClaim
  double weight = 1;
};

// Counts what was accepted and has not been scheduled yet. Not thread-safe.
class QueueLimits {
 public:
  explicit QueueLimits(const SchedulerOptions& options)
      : max_requests_(options.max_queued_requests), max_tokens_(options.max_queued_tokens) {}

  // Takes `request` in, and returns who had to leave for it: requests of lower priority classes,
  // the last class first, then those of its own class of a tenant who would still have more there
  // for its weight than the request's; of a class those of the tenant who has most, and of a tenant
  // who came last. RESOURCE_EXHAUSTED, and nobody leaves, when there is no room all the same. An
  // empty queue takes any request.
  absl::StatusOr<std::vector<RequestId>> Enter(const QueuedRequest& request);
  // What those are told who had to leave.
  static absl::Status MadeRoom();
  // Who has left already is ignored.
  void Leave(const QueuedRequest& request);
  bool Has(const QueuedRequest& request) const;

  int32_t num_requests() const { return num_requests_; }
  int64_t num_tokens() const { return num_tokens_; }
  // Those that would run before one of this class and tenant: the classes before it, and of its own
  // class its tenant's and, for each of them and the new one, as many of another tenant as its
  // weight says.
  int32_t num_before(int32_t priority, const TenantClaim& tenant) const;
  // Of all classes, by tenant.
  std::vector<TenantBacklog> Backlogs() const;

 private:
  // What a tenant has in a class.
  struct Holding {
    std::map<RequestId, int64_t> requests;  // tokens
    int64_t tokens = 0;
    double weight = 1;
  };
  using Class = std::map<std::string, Holding, std::less<>>;

  bool Fits(int64_t more_tokens) const;
  double FillOf(const Holding& holding, int32_t more_requests, int64_t more_tokens) const;
  std::optional<QueuedRequest> NextToLeave(const QueuedRequest& request) const;
  void Insert(const QueuedRequest& request);
  absl::Status Full() const;

  const int32_t max_requests_;
  const int64_t max_tokens_;
  std::map<int32_t, Class> classes_;
  int32_t num_requests_ = 0;
  int64_t num_tokens_ = 0;
};

}  // namespace tessera

#endif  // TESSERA_ENGINE_SCHEDULER_QUEUE_LIMITS_H_
