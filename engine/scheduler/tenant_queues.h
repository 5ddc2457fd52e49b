// Who waits, by tenant, and which tenant is served next.
#ifndef TESSERA_ENGINE_SCHEDULER_TENANT_QUEUES_H_
#define TESSERA_ENGINE_SCHEDULER_TENANT_QUEUES_H_

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "engine/scheduler/fairness.h"
#include "engine/scheduler/sequence.h"

namespace tessera {

// What a scheduler knows of a tenant. It is present while it has a sequence there.
struct TenantAccount {
  double weight = 1;
  double kv_share = 0;        // of the KV blocks; 0: its part
  int32_t priority = 0;       // the most important class that it has asked for since it came
  int32_t num_sequences = 0;  // waiting and running
  int32_t num_running = 0;
  double served = 0;  // see TenantQueues
  // When one of its sequences last began to run or had to give way.
  absl::Time last_moved = absl::InfinitePast();
  std::map<ServiceOrder, Sequence*> waiting;
};

// A virtual counter per tenant adds up what it was served, by its weight: kPromptTokenCost for each
// token of a prompt that is computed (cached ones are free), kDrawnTokenCost for each one drawn. Of
// the tenants who wait, the one with the least goes first, inside a priority class. Who comes
// anew begins where the least served of its class is: nobody saves up for later by staying away.
//
// A class improves by one for each `ageing` that the head of a tenant's queue waits while nothing
// of the tenant moves: so classes that are behind have their turn, but a long queue does not grow
// more important as a whole. Inside a tenant the order is ServiceOrder, and with one tenant
// nothing else counts. Engine thread only.
class TenantQueues {
 public:
  explicit TenantQueues(absl::Duration ageing) : ageing_(ageing) {}

  // The sequence has come and waits; it has its account from now on.
  void Enter(Sequence* sequence);
  // It has ended, waiting or not. Its account may be gone.
  void Leave(Sequence* sequence);
  // From waiting to running and back.
  void Start(Sequence* sequence, absl::Time now);
  void GiveWay(Sequence* sequence, absl::Time now);
  void CountServed(const Sequence& sequence, int32_t num_tokens, bool draws);

  // The heads of the queues that are of the first class, the one that goes first at the front;
  // empty when nobody waits.
  std::vector<Sequence*> Heads(absl::Time now) const;
  // The first of them, or null.
  Sequence* Next(absl::Time now) const;
  std::vector<Sequence*> Waiting() const;
  int32_t num_waiting() const { return num_waiting_; }
  // Tenants with sequences, waiting or running.
  int32_t num_present() const { return num_present_; }
  std::vector<const TenantAccount*> Present() const;
  // What is a tenant's by its weight, of all that those who are present have; (0, 1].
  double PartOf(const TenantAccount& tenant) const { return tenant.weight / weight_present_; }
  double KvShareOf(const TenantAccount& tenant) const {
    return tenant.kv_share > 0 ? tenant.kv_share : PartOf(tenant);
  }

  static constexpr double kPromptTokenCost = 1;
  // Weights are read for few rows.
  static constexpr double kDrawnTokenCost = 4;

 private:
  ServiceOrder OrderOf(const Sequence& sequence) const {
    return ServiceOrder::Of(sequence, ageing_);
  }
  int64_t ClassOf(const TenantAccount& tenant, absl::Time now) const;
  void CatchUp(TenantAccount* tenant) const;
  void Weigh();
  void Forget();

  const absl::Duration ageing_;
  std::map<std::string, TenantAccount> accounts_;  // by name; those who have gone may come back
  int32_t num_waiting_ = 0;
  int32_t num_present_ = 0;
  double weight_present_ = 0;  // of all who are
};

}  // namespace tessera

#endif  // TESSERA_ENGINE_SCHEDULER_TENANT_QUEUES_H_
