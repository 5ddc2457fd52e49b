// What a tenant is entitled to while others want something, too: seats, KV blocks, tokens of the
// step. With one tenant nobody is.
#include <algorithm>

#include "engine/scheduler/scheduler.h"

namespace tessera {

// Everyone has a seat that is free; this many they may have taken from others.
int32_t Scheduler::SeatsOf(const TenantAccount& tenant) const {
  return std::max(1, static_cast<int32_t>(options_.max_num_seqs * tenants_.PartOf(tenant)));
}

// Blocks that several sequences use count for each in part.
double Scheduler::BlocksOf(const TenantAccount& tenant) const {
  double blocks = 0;
  for (const auto& [order, sequence] : running_) {
    if (sequence->tenant != &tenant) continue;
    for (const BlockId block : sequence->kv.blocks) blocks += 1.0 / kv_.pool().references(block);
  }
  return blocks;
}

// How many blocks the tenant would have beyond its share, with so many more.
double Scheduler::BlocksAbove(const TenantAccount& tenant, int32_t more) const {
  return BlocksOf(tenant) + more - options_.num_blocks * tenants_.KvShareOf(tenant);
}

Sequence* Scheduler::LastOf(const TenantAccount& tenant) const {
  for (auto it = running_.rbegin(); it != running_.rend(); ++it) {
    if (it->second->tenant == &tenant) return it->second;
  }
  return nullptr;
}

// The last sequence of the tenant who has most seats beyond its own; null when nobody has, or only
// more important ones.
Sequence* Scheduler::HolderOfSeats(const Sequence& head) const {
  Sequence* holder = nullptr;
  double most = 0;
  for (const TenantAccount* tenant : tenants_.Present()) {
    if (tenant->num_running <= SeatsOf(*tenant)) continue;
    const double has = tenant->num_running / tenant->weight;
    Sequence* last = LastOf(*tenant);
    if (has <= most || last->request().priority < head.request().priority) continue;
    most = has;
    holder = last;
  }
  return holder;
}

// The same for blocks, when `wants` has `more` of them; its own tenant may be the one.
Sequence* Scheduler::HolderOfBlocks(const Sequence& wants, int32_t more) const {
  if (tenants_.num_present() < 2) return nullptr;
  Sequence* holder = nullptr;
  double most = 0;
  for (const TenantAccount* tenant : tenants_.Present()) {
    const bool is_own = tenant == wants.tenant;
    if (tenant->num_running == 0) continue;
    const double above = BlocksAbove(*tenant, is_own ? more : 0);
    Sequence* last = LastOf(*tenant);
    if (above <= most || (!is_own && last->request().priority < wants.request().priority)) continue;
    most = above;
    holder = last;
  }
  return holder;
}

// Who is in the first class and has less than its part begins in any case, before the others'
// prompts have taken the step.
void Scheduler::AdmitEntitled(ScheduleResult* result) {
  if (tenants_.num_present() < 2) return;
  for (int32_t seats = 0; seats < options_.max_num_seqs; ++seats) {
    const std::vector<Sequence*> heads = tenants_.Heads(now_);
    const auto entitled = std::find_if(heads.begin(), heads.end(),
                                       [this](const Sequence* head) { return IsEntitled(*head); });
    if (entitled == heads.end() || !MakeWay(*entitled, result)) return;
  }
}

bool Scheduler::IsEntitled(const Sequence& head) const {
  const TenantAccount& tenant = *head.tenant;
  if (head.num_steps > 0 || tenant.num_running >= SeatsOf(tenant)) return false;
  int64_t wanted = 0;  // of the step
  for (const auto& [order, sequence] : running_) {
    if (sequence->tenant != &tenant) continue;
    wanted += std::min(sequence->next_position() - sequence->num_planned, ChunkLimit());
  }
  if (wanted > 0 &&
      static_cast<double>(wanted) >= options_.max_num_batched_tokens * tenants_.PartOf(tenant)) {
    return false;
  }
  return BlocksAbove(tenant, kv_.BlocksFor(head.num_tokens())) <= 0;
}

// False when there is no way; then somebody may have lost its place all the same.
bool Scheduler::MakeWay(Sequence* head, ScheduleResult* result) {
  while (static_cast<int32_t>(running_.size()) >= options_.max_num_seqs) {
    Sequence* holder = HolderOfSeats(*head);
    if (holder == nullptr) return false;
    Preempt(holder, result);
  }
  while (!TryAdmit(head, result)) {
    Sequence* holder = HolderOfBlocks(*head, /*more=*/0);
    if (holder == nullptr || holder->tenant == head->tenant) return false;
    Preempt(holder, result);
  }
  return true;
}

}  // namespace tessera
