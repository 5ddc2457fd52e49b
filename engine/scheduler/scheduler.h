// Continuous batching for one data-parallel group: which sequences run the next step, on which
// tokens and blocks. Pure: no tensors, threads, clock or I/O; time comes in as an argument.
#ifndef TESSERA_ENGINE_SCHEDULER_SCHEDULER_H_
#define TESSERA_ENGINE_SCHEDULER_SCHEDULER_H_

#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/time/time.h"
#include "engine/kv/kv_cache_manager.h"
#include "engine/options.h"
#include "engine/scheduler/fairness.h"
#include "engine/scheduler/penalty_slots.h"
#include "engine/scheduler/plan_arrays.h"
#include "engine/scheduler/prefill_pace.h"
#include "engine/scheduler/sequence.h"
#include "engine/scheduler/step_plan.h"
#include "engine/scheduler/tenant_queues.h"

namespace tessera {

// What Schedule decided. The ids of `expired` are forgotten by the scheduler.
struct ScheduleResult {
  BatchPlan plan;  // no sequences: nothing to run now
  int32_t prefill_tokens = 0;
  int32_t decode_tokens = 0;
  std::vector<SequenceId> started;    // admitted for the first time
  std::vector<SequenceId> preempted;  // lost their blocks, wait again
  std::vector<SequenceId> expired;    // deadline passed, waiting or running
  // Nothing runs because company is waited for until then.
  std::optional<absl::Time> wake_at;
};

// What a step brought for one sequence. Rows index the BatchResult of the step.
struct SequenceUpdate {
  SequenceId id{};
  int32_t first_prompt_row = 0;
  int32_t num_prompt_rows = 0;
  int32_t token = -1;     // -1: the prompt is not complete yet
  int32_t row = -1;       // of `token`
  bool may_stop = true;   // a stop string may end with it: min_tokens are there
  bool unusable = false;  // no token could be drawn, or not one that fits; the sequence is finished
  bool in_structure = false;  // see Sequence
  std::optional<TokenFinish> finish;
  // State after the step.
  int32_t num_cached = 0;
  int32_t reasoning_tokens = 0;
  bool thinking_budget_enforced = false;
  // A beam search has ended. Until then its sequences are mentioned for prompt logprobs only; any
  // of them may bring it.
  std::shared_ptr<const BeamResult> beams;
};

struct SchedulerStats {
  int32_t num_running = 0;
  int32_t num_waiting = 0;
  int32_t blocks_total = 0;
  int32_t blocks_used = 0;
  int32_t blocks_cached = 0;
  int32_t blocks_free = 0;
  int64_t prefix_cache_queries = 0;  // tokens
  int64_t prefix_cache_hits = 0;     // tokens
  int64_t num_preemptions = 0;
};

// Engine thread only. Every step that is planned is applied, in the order of planning; before that
// the next one may be planned. Add and Finish may come at any time between.
class Scheduler {
 public:
  // max_num_seqs is lowered to max_num_batched_tokens: every decode fits into every step.
  Scheduler(const SchedulerOptions& options, const BlockHash& cache_key);

  // The sequence must fit into the pool when it is alone; see MaxTokens.
  void Add(std::unique_ptr<Sequence> sequence);
  // Ends a sequence in any state; unknown ids are ignored. Its blocks are free when this returns,
  // or when the steps that use them have been applied; no update mentions it any more.
  void Finish(SequenceId id);

  // Steps that may be under way when the next one is planned.
  static constexpr int32_t kMaxStepsUnderWay = 1;

  // Admits, preempts and plans the next step; at most kMaxStepsUnderWay are not applied yet. A plan
  // without sequences is no step. Tokens that the step before draws are named by their rows there.
  ScheduleResult Schedule(absl::Time now);
  // The result of the oldest step under way, one entry per logits row of its plan. In the order of
  // the plan.
  std::vector<SequenceUpdate> Apply(const BatchResult& result);

  // What the step took that was applied last: prompts are cut into chunks accordingly.
  void ObserveApplied(absl::Duration step) { pace_.Observe(applied_prefill_tokens_, step); }

  bool idle() const { return running_.empty() && tenants_.num_waiting() == 0; }
  int32_t num_steps_under_way() const { return static_cast<int32_t>(under_way_.size()); }
  // Tokens one sequence can have in the whole pool.
  int64_t MaxTokens() const;
  // Work left: tokens to compute of waiting and running sequences.
  int64_t load() const;
  SchedulerStats stats() const;
  absl::Status CheckIntegrity() const;

  // For tests and checks: those who wait, by tenant, then those who run, in service order.
  std::vector<const Sequence*> sequences() const;

 private:
  using Queue = std::map<ServiceOrder, Sequence*>;

  ServiceOrder OrderOf(const Sequence& sequence) const;
  void DropExpired(absl::Time now, ScheduleResult* result);
  bool WaitsForCompany(absl::Time now, ScheduleResult* result) const;
  void AdmitEntitled(ScheduleResult* result);
  bool IsEntitled(const Sequence& head) const;
  bool MakeWay(Sequence* head, ScheduleResult* result);
  void PlanDecodes(ScheduleResult* result);
  void ReserveOrPreempt(Sequence* sequence, ScheduleResult* result);
  void Preempt(Sequence* sequence, ScheduleResult* result);
  void PlanPrefills();
  std::vector<int32_t> Allot(const std::vector<Sequence*>& prefills) const;
  void Admit(ScheduleResult* result);
  void AdmitWaiting(ScheduleResult* result);
  bool TryAdmit(Sequence* sequence, ScheduleResult* result);
  int32_t ChunkLimit() const;
  int32_t SeatsOf(const TenantAccount& tenant) const;
  double BlocksOf(const TenantAccount& tenant) const;
  double BlocksAbove(const TenantAccount& tenant, int32_t more) const;
  Sequence* LastOf(const TenantAccount& tenant) const;
  Sequence* HolderOfSeats(const Sequence& head) const;
  Sequence* HolderOfBlocks(const Sequence& wants, int32_t more) const;
  void Plan(Sequence* sequence, int32_t num_tokens);
  void PutUnderWay();
  void Commit(const PlannedSequence& planned);
  SequenceUpdate ApplyOne(const PlannedSequence& planned, const BatchResult& result);
  void Remove(Sequence* sequence);
  // scheduler_beams.cc
  void ApplyBeam(const PlannedSequence& planned, const BatchResult& result, SequenceUpdate* update);
  void AdvanceBeams(BeamGroup* group, SequenceUpdate* update);
  bool MoveBeams(BeamGroup* group, const std::vector<BeamStep>& steps);
  Sequence* ForkBeam(const Sequence& parent, SequenceId id);
  void EndBeams(BeamGroup* group);
  void BreakStall(ScheduleResult* result);
  std::vector<BlockCopy> TakeCopies();

  SchedulerOptions options_;
  KvCacheManager kv_;
  PenaltySlots penalty_slots_;
  PrefillPace pace_;
  int32_t applied_prefill_tokens_ = 0;
  absl::Time now_;  // of the step being planned
  absl::Time last_company_ =
      absl::InfinitePast();  // of steps when there was more than one sequence
  absl::flat_hash_map<SequenceId, std::unique_ptr<Sequence>> sequences_;
  TenantQueues tenants_;
  Queue running_;
  std::vector<BlockCopy> copies_;                       // for the next step
  std::vector<PlannedSequence> planned_;                // the step being planned
  std::deque<std::vector<PlannedSequence>> under_way_;  // steps, oldest first
  int32_t budget_ = 0;                                  // tokens left in the step being planned
  // No sequence has an earlier deadline.
  absl::Time next_deadline_ = absl::InfiniteFuture();
  int64_t prefix_cache_queries_ = 0;
  int64_t prefix_cache_hits_ = 0;
  int64_t num_preemptions_ = 0;
};

}  // namespace tessera

#endif  // TESSERA_ENGINE_SCHEDULER_SCHEDULER_H_
