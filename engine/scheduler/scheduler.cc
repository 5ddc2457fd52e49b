#include "engine/scheduler/scheduler.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/core/status_macros.h"

namespace tessera {
namespace {

SchedulerOptions Normalised(SchedulerOptions options) {
  options.max_num_seqs = std::min(options.max_num_seqs, options.max_num_batched_tokens);
  return options;
}

// Tokens whose K and V no step has computed or computes now. A decoding sequence has exactly one.
int32_t Remaining(const Sequence& sequence) {
  return sequence.next_position() - sequence.num_planned;
}

bool Decodes(const Sequence& sequence) {
  return sequence.next_position() > sequence.prompt_length() && Remaining(sequence) == 1;
}

}  // namespace

Scheduler::Scheduler(const SchedulerOptions& options, const BlockHash& cache_key)
    : options_(Normalised(options)),
      kv_({.num_blocks = options.num_blocks,
           .block_size = options.block_size,
           .enable_prefix_cache = options.enable_prefix_cache,
           .key = cache_key}),
      penalty_slots_(options_.max_num_seqs,
                     MaxListedTokens(options_.max_num_batched_tokens, options_.max_model_len)),
      tenants_(options.ageing) {
  TESSERA_CHECK(options_.max_num_seqs > 0 && options_.max_prefill_chunk > 0);
  TESSERA_CHECK(options_.ageing > absl::ZeroDuration());
}

int64_t Scheduler::MaxTokens() const {
  return static_cast<int64_t>(options_.num_blocks) * options_.block_size;
}

ServiceOrder Scheduler::OrderOf(const Sequence& sequence) const {
  return ServiceOrder::Of(sequence, options_.ageing);
}

void Scheduler::Add(std::unique_ptr<Sequence> sequence) {
  Sequence* added = sequence.get();
  TESSERA_CHECK(added->num_tokens() > 0 && added->num_tokens() < MaxTokens());
  const bool is_new = sequences_.emplace(added->id(), std::move(sequence)).second;
  TESSERA_CHECK(is_new);
  tenants_.Enter(added);
  next_deadline_ = std::min(next_deadline_, added->request().deadline);
}

void Scheduler::Finish(SequenceId id) {
  const auto it = sequences_.find(id);
  if (it != sequences_.end()) Remove(it->second.get());
}

// Blocks that steps under way read and write stay until these have been applied.
void Scheduler::Remove(Sequence* sequence) {
  if (sequence->state == SequenceState::kFinished) return;
  if (sequence->state == SequenceState::kRunning) running_.erase(OrderOf(*sequence));
  tenants_.Leave(sequence);
  sequence->state = SequenceState::kFinished;
  penalty_slots_.TakeBack(sequence);
  if (sequence->num_steps > 0) return;
  kv_.Release(&sequence->kv);
  sequences_.erase(sequence->id());
}

ScheduleResult Scheduler::Schedule(absl::Time now) {
  TESSERA_CHECK(num_steps_under_way() <= kMaxStepsUnderWay);
  ScheduleResult result;
  DropExpired(now, &result);
  now_ = now;
  const std::vector<BlockCopy> copies = TakeCopies();
  if (static_cast<int32_t>(running_.size()) + tenants_.num_waiting() > 1) last_company_ = now;
  if (!WaitsForCompany(now, &result)) {
    budget_ = options_.max_num_batched_tokens;
    penalty_slots_.BeginStep();
    AdmitEntitled(&result);
    PlanDecodes(&result);
    PlanPrefills();
    Admit(&result);
    BreakStall(&result);
  }
  for (const PlannedSequence& planned : planned_) {
    (Decodes(*planned.sequence) ? result.decode_tokens : result.prefill_tokens) +=
        planned.num_tokens;
  }
  result.plan = BuildPlan(options_.block_size, &planned_);
  if (planned_.empty()) return result;  // whoever the copies were for has no blocks any more
  for (const BlockCopy& copy : copies) {
    result.plan.copy_from.push_back(static_cast<int32_t>(copy.from));
    result.plan.copy_to.push_back(static_cast<int32_t>(copy.to));
  }
  PutUnderWay();
  return result;
}

void Scheduler::PutUnderWay() {
  for (const PlannedSequence& planned : planned_) {
    Sequence& sequence = *planned.sequence;
    sequence.planned = false;
    ++sequence.num_steps;
    sequence.num_planned += planned.num_tokens;
    sequence.num_prompt_logprobs += planned.num_prompt_rows;
    if (!planned.samples) continue;
    ++sequence.num_drawing;
    sequence.drawing_row = planned.first_row + planned.num_prompt_rows;
  }
  under_way_.push_back(std::exchange(planned_, {}));
}

void Scheduler::DropExpired(absl::Time now, ScheduleResult* result) {
  if (now < next_deadline_) return;
  next_deadline_ = absl::InfiniteFuture();
  for (const Sequence* sequence : sequences()) {
    const absl::Time deadline = sequence->request().deadline;
    if (deadline <= now) {
      result->expired.push_back(sequence->id());
    } else {
      next_deadline_ = std::min(next_deadline_, deadline);
    }
  }
  for (SequenceId id : result->expired) Finish(id);
}

bool Scheduler::WaitsForCompany(absl::Time now, ScheduleResult* result) const {
  if (options_.batch_wait <= absl::ZeroDuration() || !running_.empty() ||
      tenants_.num_waiting() == 0 || tenants_.num_waiting() >= options_.max_num_seqs) {
    return false;
  }
  absl::Time oldest = absl::InfiniteFuture();
  absl::Time first_deadline = absl::InfiniteFuture();
  for (const Sequence* sequence : tenants_.Waiting()) {
    oldest = std::min(oldest, sequence->queued_at());
    first_deadline = std::min(first_deadline, sequence->request().deadline);
  }
  const absl::Time until = oldest + options_.batch_wait;
  if (now >= until) return false;
  result->wake_at = std::min(until, first_deadline);
  return true;
}

void Scheduler::Plan(Sequence* sequence, int32_t num_tokens) {
  num_tokens = penalty_slots_.TokensThatFit(*sequence, num_tokens);
  if (num_tokens == 0) return;
  sequence->planned = true;
  budget_ -= num_tokens;
  tenants_.CountServed(*sequence, num_tokens, Decodes(*sequence));
  planned_.push_back({.sequence = sequence,
                      .num_tokens = num_tokens,
                      .num_preemptions = sequence->num_preemptions});
}

// Nobody is planned before everybody has blocks: who has to give way may be any of them.
void Scheduler::PlanDecodes(ScheduleResult* result) {
  std::vector<Sequence*> decodes;
  for (const auto& [order, sequence] : running_) {
    if (Decodes(*sequence) && sequence->CanBePlanned()) decodes.push_back(sequence);
  }
  for (Sequence* sequence : decodes) {
    if (sequence->state != SequenceState::kRunning) continue;  // preempted by an earlier one
    ReserveOrPreempt(sequence, result);
  }
  for (Sequence* sequence : decodes) {
    if (sequence->state == SequenceState::kRunning) Plan(sequence, 1);
  }
}

// The sequence itself may be who has to give up its blocks.
void Scheduler::ReserveOrPreempt(Sequence* sequence, ScheduleResult* result) {
  while (!kv_.Reserve(sequence->next_position(), &sequence->kv)) {
    Sequence* holder = HolderOfBlocks(*sequence, /*more=*/1);
    Sequence* victim = holder != nullptr ? holder : running_.rbegin()->second;
    Preempt(victim, result);
    if (victim == sequence) return;
  }
}

// A step under way may still use the blocks: whatever is planned from now on runs after it. A token
// that it draws is kept.
void Scheduler::Preempt(Sequence* sequence, ScheduleResult* result) {
  TESSERA_CHECK(!sequence->planned);
  running_.erase(OrderOf(*sequence));
  kv_.Release(&sequence->kv);
  penalty_slots_.TakeBack(sequence);
  sequence->num_computed = 0;
  sequence->num_planned = 0;
  sequence->candidates.reset();
  ++sequence->num_preemptions;
  tenants_.GiveWay(sequence, now_);
  result->preempted.push_back(sequence->id());
  ++num_preemptions_;
}

// A chunk is capped, and short where it takes long, where somebody would have to wait for it: now,
// or so soon after somebody was here that the next one is likely to come before the chunk is done.
int32_t Scheduler::ChunkLimit() const {
  constexpr absl::Duration kSoon = absl::Seconds(1);
  const bool alone = now_ - last_company_ > kSoon;
  return alone ? options_.max_num_batched_tokens : pace_.Chunk(options_.max_prefill_chunk);
}

// Blocks of the whole prompt were reserved at admission. Each sequence leaves at least one token of
// the budget to every one behind it: all running sequences progress in every step.
void Scheduler::PlanPrefills() {
  std::vector<Sequence*> prefills;
  for (const auto& [order, sequence] : running_) {
    if (!sequence->planned && !Decodes(*sequence) && Remaining(*sequence) > 0) {
      prefills.push_back(sequence);
    }
  }
  std::stable_sort(prefills.begin(), prefills.end(), [](const Sequence* a, const Sequence* b) {
    return a->tenant->served < b->tenant->served;
  });
  const std::vector<int32_t> tokens = Allot(prefills);
  for (size_t i = 0; i < prefills.size(); ++i) Plan(prefills[i], tokens[i]);
}

// Each tenant has its part of the budget; what one does not want of it the others get.
std::vector<int32_t> Scheduler::Allot(const std::vector<Sequence*>& prefills) const {
  absl::flat_hash_map<const TenantAccount*, int32_t> parts;
  double weights = 0;
  for (const Sequence* sequence : prefills) {
    if (parts.emplace(sequence->tenant, 0).second) weights += sequence->tenant->weight;
  }
  for (auto& [tenant, part] : parts)
    part = static_cast<int32_t>(budget_ * tenant->weight / weights);
  int32_t left = budget_;
  auto behind = static_cast<int32_t>(prefills.size());
  std::vector<int32_t> tokens;
  const auto wanted = [&](const Sequence& sequence) {
    return std::min(Remaining(sequence), ChunkLimit());
  };
  for (const Sequence* sequence : prefills) {
    int32_t& part = parts[sequence->tenant];
    tokens.push_back(std::min({wanted(*sequence), left - --behind, std::max(1, part)}));
    part -= tokens.back();
    left -= tokens.back();
  }
  for (size_t i = 0; i < prefills.size() && left > 0; ++i) {
    const int32_t more = std::min(wanted(*prefills[i]) - tokens[i], left);
    tokens[i] += more;
    left -= more;
  }
  return tokens;
}

// Strictly one after the other: when the next request does not fit, nobody overtakes it. After a
// preemption nobody is admitted, the blocks are wanted by those who run.
void Scheduler::Admit(ScheduleResult* result) {
  if (result->preempted.empty()) AdmitWaiting(result);
}

void Scheduler::AdmitWaiting(ScheduleResult* result) {
  while (tenants_.num_waiting() > 0 && budget_ > 0 &&
         static_cast<int32_t>(running_.size()) < options_.max_num_seqs) {
    Sequence* next = tenants_.Next(now_);
    if (!TryAdmit(next, result)) return;
    Plan(next, std::min({Remaining(*next), ChunkLimit(), budget_}));
  }
}

bool Scheduler::TryAdmit(Sequence* sequence, ScheduleResult* result) {
  if (sequence->num_steps > 0) return false;  // preempted while a step draws its next token
  int32_t cached = 0;
  if (sequence->reads_prefix_cache()) {
    cached = kv_.Attach(sequence->tokens(), sequence->request().cache_salt, &sequence->kv);
  }
  // One block more than needed for each running sequence would only delay preemption; one spare
  // block in total keeps a request from being admitted and preempted in turns.
  const int32_t spare = running_.empty() ? 0 : 1;
  const int32_t missing =
      kv_.BlocksFor(sequence->num_tokens()) - static_cast<int32_t>(sequence->kv.blocks.size());
  if (missing + spare > kv_.pool().num_available() ||
      !kv_.Reserve(sequence->num_tokens(), &sequence->kv)) {
    kv_.Release(&sequence->kv);
    return false;
  }
  tenants_.Start(sequence, now_);
  running_.emplace(OrderOf(*sequence), sequence);
  penalty_slots_.Give(sequence);
  sequence->num_computed = cached;
  sequence->num_planned = cached;
  if (sequence->num_cached < 0) {
    sequence->num_cached = cached;
    prefix_cache_queries_ += sequence->prompt_length();
    prefix_cache_hits_ += cached;
    result->started.push_back(sequence->id());
  }
  return true;
}

std::vector<SequenceUpdate> Scheduler::Apply(const BatchResult& result) {
  TESSERA_CHECK(!under_way_.empty());
  const std::vector<PlannedSequence> planned = std::move(under_way_.front());
  under_way_.pop_front();
  std::vector<SequenceUpdate> updates;
  updates.reserve(planned.size());
  applied_prefill_tokens_ = 0;
  for (const PlannedSequence& p : planned) {
    if (p.num_tokens > 1) applied_prefill_tokens_ += p.num_tokens;
    --p.sequence->num_steps;
    if (p.sequence->state == SequenceState::kFinished) {  // while the step was under way
      if (p.sequence->num_steps > 0) continue;
      kv_.Release(&p.sequence->kv);
      sequences_.erase(p.sequence->id());
      continue;
    }
    const bool searches = p.sequence->beams() != nullptr;  // its beams may be gone afterwards
    SequenceUpdate update = ApplyOne(p, result);
    if (!searches) {
      if (update.finish.has_value() || update.unusable) Remove(p.sequence);
    } else if (update.num_prompt_rows == 0 && update.beams == nullptr && !update.unusable) {
      continue;
    }
    updates.push_back(std::move(update));
  }
  return updates;
}

// The step's keys and values are in blocks that the sequence still has.
void Scheduler::Commit(const PlannedSequence& planned) {
  Sequence& sequence = *planned.sequence;
  sequence.num_computed += planned.num_tokens;
  if (!sequence.request().use_prefix_cache) return;
  kv_.Commit(sequence.tokens(), sequence.num_computed, sequence.request().cache_salt, &sequence.kv);
}

SequenceUpdate Scheduler::ApplyOne(const PlannedSequence& planned, const BatchResult& result) {
  Sequence& sequence = *planned.sequence;
  if (planned.num_preemptions == sequence.num_preemptions) Commit(planned);
  SequenceUpdate update{.id = sequence.id(),
                        .first_prompt_row = planned.first_row,
                        .num_prompt_rows = planned.num_prompt_rows,
                        .num_cached = sequence.num_cached};
  if (planned.samples && sequence.beams() != nullptr) {
    --sequence.num_drawing;
    ApplyBeam(planned, result, &update);
    return update;
  }
  if (planned.samples) {
    --sequence.num_drawing;
    update.row = planned.first_row + planned.num_prompt_rows;
    update.token = result.token[update.row];
    update.unusable = update.token < 0;
    update.may_stop = sequence.may_stop();
    TokenFinish finish;
    if (!update.unusable && sequence.Append(update.token, &finish)) update.finish = finish;
    update.in_structure = sequence.in_structure();
    update.unusable = update.unusable || sequence.structure_broken();
  }
  update.reasoning_tokens = sequence.thinking().reasoning_tokens();
  update.thinking_budget_enforced = sequence.thinking().enforced();
  return update;
}

int64_t Scheduler::load() const {
  int64_t tokens = 0;
  for (const auto& [id, sequence] : sequences_) tokens += Remaining(*sequence);
  return tokens;
}

SchedulerStats Scheduler::stats() const {
  const BlockPool& pool = kv_.pool();
  return {.num_running = static_cast<int32_t>(running_.size()),
          .num_waiting = tenants_.num_waiting(),
          .blocks_total = pool.num_blocks(),
          .blocks_used = pool.num_used(),
          .blocks_cached = pool.num_cached(),
          .blocks_free = pool.num_free(),
          .prefix_cache_queries = prefix_cache_queries_,
          .prefix_cache_hits = prefix_cache_hits_,
          .num_preemptions = num_preemptions_};
}

std::vector<const Sequence*> Scheduler::sequences() const {
  const std::vector<Sequence*> waiting = tenants_.Waiting();
  std::vector<const Sequence*> all(waiting.begin(), waiting.end());
  for (const auto& [order, sequence] : running_) all.push_back(sequence);
  return all;
}

absl::Status Scheduler::CheckIntegrity() const {
  RETURN_IF_ERROR(kv_.CheckIntegrity());
  std::vector<const Sequence*> running;
  for (const auto& [order, sequence] : running_) running.push_back(sequence);
  RETURN_IF_ERROR(penalty_slots_.CheckIntegrity(running));
  std::vector<int32_t> references(options_.num_blocks, 0);
  for (const auto& [id, sequence] : sequences_) {
    for (BlockId block : sequence->kv.blocks) ++references[static_cast<int32_t>(block)];
  }
  for (const BlockCopy& copy : copies_) {
    ++references[static_cast<int32_t>(copy.from)];
    ++references[static_cast<int32_t>(copy.to)];
  }
  for (int32_t i = 0; i < options_.num_blocks; ++i) {
    const int32_t held = kv_.pool().references(static_cast<BlockId>(i));
    if (held != references[i]) {
      return absl::InternalError(absl::StrCat("block ", i, " has ", held, " references, sequences ",
                                              "hold ", references[i]));
    }
  }
  return absl::OkStatus();
}

}  // namespace tessera
