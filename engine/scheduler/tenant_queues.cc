#include "engine/scheduler/tenant_queues.h"

#include <algorithm>
#include <limits>
#include <tuple>
#include <utility>

namespace tessera {

void TenantQueues::Enter(Sequence* sequence) {
  const GenerateRequest& request = sequence->request();
  TenantAccount& tenant = accounts_[request.tenant.name];
  tenant.weight = request.tenant.weight;
  tenant.kv_share = request.tenant.kv_share;
  const bool comes = tenant.num_sequences++ == 0;
  tenant.priority = comes ? request.priority : std::min(tenant.priority, request.priority);
  if (comes && num_present_++ > 0) CatchUp(&tenant);
  Weigh();
  sequence->tenant = &tenant;
  tenant.waiting.emplace(OrderOf(*sequence), sequence);
  ++num_waiting_;
}

// To the least served of its class among those who were there.
void TenantQueues::CatchUp(TenantAccount* tenant) const {
  double least = std::numeric_limits<double>::infinity();
  for (const auto& [name, other] : accounts_) {
    if (&other == tenant || other.num_sequences == 0 || other.priority != tenant->priority) {
      continue;
    }
    least = std::min(least, other.served);
  }
  if (least < std::numeric_limits<double>::infinity()) {
    tenant->served = std::max(tenant->served, least);
  }
}

void TenantQueues::Leave(Sequence* sequence) {
  TenantAccount& tenant = *sequence->tenant;
  if (sequence->state == SequenceState::kWaiting) {
    tenant.waiting.erase(OrderOf(*sequence));
    --num_waiting_;
  } else {
    --tenant.num_running;
  }
  sequence->tenant = nullptr;
  if (--tenant.num_sequences > 0) return;
  --num_present_;
  Weigh();
  Forget();
}

// Those who have gone and would not be remembered when they come back.
void TenantQueues::Forget() {
  double least = std::numeric_limits<double>::infinity();
  for (const auto& [name, tenant] : accounts_) {
    if (tenant.num_sequences > 0) least = std::min(least, tenant.served);
  }
  for (auto it = accounts_.begin(); it != accounts_.end();) {
    const TenantAccount& tenant = it->second;
    const bool is_gone = tenant.num_sequences == 0 && tenant.served <= least;
    it = is_gone ? accounts_.erase(it) : std::next(it);
  }
}

void TenantQueues::Start(Sequence* sequence, absl::Time now) {
  TenantAccount& tenant = *sequence->tenant;
  tenant.waiting.erase(OrderOf(*sequence));
  --num_waiting_;
  ++tenant.num_running;
  tenant.last_moved = now;
  sequence->state = SequenceState::kRunning;
}

void TenantQueues::GiveWay(Sequence* sequence, absl::Time now) {
  TenantAccount& tenant = *sequence->tenant;
  tenant.waiting.emplace(OrderOf(*sequence), sequence);
  ++num_waiting_;
  --tenant.num_running;
  tenant.last_moved = now;
  sequence->state = SequenceState::kWaiting;
}

void TenantQueues::CountServed(const Sequence& sequence, int32_t num_tokens, bool draws) {
  sequence.tenant->served +=
      num_tokens * (draws ? kDrawnTokenCost : kPromptTokenCost) / sequence.tenant->weight;
}

int64_t TenantQueues::ClassOf(const TenantAccount& tenant, absl::Time now) const {
  const Sequence& head = *tenant.waiting.begin()->second;
  const absl::Duration waits = now - std::max(head.queued_at(), tenant.last_moved);
  absl::Duration rest;
  const int64_t gained = absl::IDivDuration(std::max(absl::ZeroDuration(), waits), ageing_, &rest);
  return static_cast<int64_t>(head.request().priority) -
         std::min<int64_t>(gained, std::numeric_limits<int32_t>::max());
}

std::vector<Sequence*> TenantQueues::Heads(absl::Time now) const {
  using Key = std::tuple<int64_t, double, ServiceOrder>;
  std::vector<std::pair<Key, Sequence*>> heads;
  for (const auto& [name, tenant] : accounts_) {
    if (tenant.waiting.empty()) continue;
    const auto& [order, head] = *tenant.waiting.begin();
    heads.push_back({{ClassOf(tenant, now), tenant.served, order}, head});
  }
  std::sort(heads.begin(), heads.end());
  std::vector<Sequence*> first;
  for (const auto& [key, head] : heads) {
    if (std::get<0>(key) == std::get<0>(heads.front().first)) first.push_back(head);
  }
  return first;
}

Sequence* TenantQueues::Next(absl::Time now) const {
  const std::vector<Sequence*> heads = Heads(now);
  return heads.empty() ? nullptr : heads.front();
}

std::vector<Sequence*> TenantQueues::Waiting() const {
  std::vector<Sequence*> all;
  for (const auto& [name, tenant] : accounts_) {
    for (const auto& [order, sequence] : tenant.waiting) all.push_back(sequence);
  }
  return all;
}

std::vector<const TenantAccount*> TenantQueues::Present() const {
  std::vector<const TenantAccount*> present;
  for (const auto& [name, tenant] : accounts_) {
    if (tenant.num_sequences > 0) present.push_back(&tenant);
  }
  return present;
}

void TenantQueues::Weigh() {
  weight_present_ = 0;
  for (const auto& [name, tenant] : accounts_) {
    if (tenant.num_sequences > 0) weight_present_ += tenant.weight;
  }
}

}  // namespace tessera
