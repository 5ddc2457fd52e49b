#include "tests/engine/scheduler/simulator.h"

#include <algorithm>
#include <deque>
#include <map>
#include <memory>
#include <random>
#include <set>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "engine/scheduler/scheduler.h"
#include "tests/engine/scheduler/expected_tokens.h"
#include "tests/engine/scheduler/fake_model.h"

namespace tessera {
namespace {

constexpr int32_t kVocab = 61;
constexpr int32_t kEos = 0;
constexpr int32_t kThinkStart = 1;
constexpr int32_t kThinkEnd = 2;

// The scheduler uses the context limit for nothing but the length of its lists of penalties. In
// some histories they are so short that hardly two fit.
SchedulerOptions WithShortLists(SchedulerOptions options) {
  if (options.max_model_len % 3 == 0) options.max_model_len = 0;
  return options;
}

struct SimRequest {
  SequenceId id{};
  std::shared_ptr<GenerateRequest> request;
  std::vector<int32_t> stop_ids;
  uint64_t seed = 0;
  absl::Time queued_at;
  ExpectedOutput expected;
  size_t received = 0;
  size_t prompt_rows = 0;
  int32_t starts = 0;
  int32_t ends = 0;           // finished, cancelled, expired or stopped by text: exactly once
  int64_t text_stop_at = -1;  // output tokens after which the text ends it
};

class Simulation {
 public:
  Simulation(uint64_t seed, int32_t depth, SimulatedFault fault);
  std::string Run();
  SimulationStats stats() const { return stats_; }

 private:
  int64_t Random(int64_t low, int64_t high) {
    return low + static_cast<int64_t>(random_() % static_cast<uint64_t>(high - low + 1));
  }
  bool Chance(int percent) { return Random(1, 100) <= percent; }

  static SchedulerOptions RandomOptions(std::mt19937_64* random);
  void MakeRequests();
  void RandomSampling(GenerateRequest* request);
  std::vector<int32_t> RandomPrompt();
  void Fail(std::string text) {
    if (error_.empty()) error_ = absl::StrCat("step ", stats_.steps, ": ", text);
  }

  void AddArrivals();
  void CancelSome(int percent);
  void End(SequenceId id);
  void Step();
  // False when there was nothing to plan.
  bool PlanStep();
  void ApplyStep();
  void CheckProgress(int32_t blocked, const BatchPlan& plan);
  void CheckSchedule(bool had_work, int32_t blocked, const ScheduleResult& result);
  void CheckOrder(const std::set<SequenceId>& waited);
  void CheckUpdate(const SequenceUpdate& update, const BatchResult& result);
  void CheckPromptRows(SimRequest* request, const SequenceUpdate& update,
                       const BatchResult& result);
  void CheckFinish(SimRequest* request, const SequenceUpdate& update);
  void CheckEnd();

  std::mt19937_64 random_;
  const int32_t depth_;
  SimulatedFault fault_;
  SchedulerOptions options_;
  Scheduler scheduler_;
  FakeModel model_;
  std::deque<BatchResult> results_;  // of the steps under way
  absl::Time now_ = absl::UnixEpoch();
  std::map<SequenceId, SimRequest> requests_;
  std::vector<SequenceId> arrivals_;  // latest first
  std::set<SequenceId> live_;
  std::string error_;
  SimulationStats stats_;
};

SchedulerOptions Simulation::RandomOptions(std::mt19937_64* random) {
  const auto pick = [&](int32_t low, int32_t high) {
    return low + static_cast<int32_t>((*random)() % static_cast<uint64_t>(high - low + 1));
  };
  SchedulerOptions options;
  options.max_num_seqs = pick(1, 12);
  options.max_num_batched_tokens = pick(4, 64);
  options.max_prefill_chunk = pick(1, 24);
  options.block_size = pick(1, 8);
  options.max_model_len = pick(24, 80);
  const int32_t fitting = (options.max_model_len + options.block_size) / options.block_size;
  options.num_blocks = fitting + (pick(0, 2) == 0 ? 0 : pick(0, 3 * fitting));
  options.vocab_size = kVocab;
  options.enable_prefix_cache = pick(0, 3) != 0;
  options.batch_wait = pick(0, 3) == 0 ? absl::Milliseconds(pick(1, 40)) : absl::ZeroDuration();
  options.ageing = absl::Milliseconds(pick(1, 400));
  return options;
}

Simulation::Simulation(uint64_t seed, int32_t depth, SimulatedFault fault)
    : random_(seed),
      depth_(depth),
      fault_(fault),
      options_(RandomOptions(&random_)),
      scheduler_(WithShortLists(options_), BlockHash{}),
      model_(options_.num_blocks, options_.block_size, kVocab) {
  MakeRequests();
}

std::vector<int32_t> Simulation::RandomPrompt() {
  // A few families with common beginnings make prefix hits.
  const int64_t family = Random(0, 3);
  const int64_t length = Random(1, options_.max_model_len - 1);
  const int64_t common = Random(0, length);
  std::vector<int32_t> prompt;
  for (int64_t i = 0; i < length; ++i) {
    const uint64_t token = i < common ? Mix(family, i) : random_();
    prompt.push_back(static_cast<int32_t>(token % kVocab));
  }
  return prompt;
}

void Simulation::RandomSampling(GenerateRequest* request) {
  SamplingParams& sampling = request->sampling;
  if (Chance(20)) sampling.repetition_penalty = 1.5F;
  if (Chance(20)) sampling.frequency_penalty = 0.5F;
  if (Chance(15)) sampling.bad_words = {{5}, {7, 8}, {9, 10, 11}};
  if (Chance(10)) sampling.allowed_token_ids = {0, 3, 4, 5, 6, 7, 8};
  if (Chance(2)) sampling.allowed_token_ids = {5};
  if (Chance(15)) sampling.logprobs = static_cast<int32_t>(Random(0, 3));
  if (Chance(15)) sampling.prompt_logprobs = static_cast<int32_t>(Random(0, 2));
  StoppingParams& stopping = request->stopping;
  if (Chance(85)) stopping.max_tokens = static_cast<int32_t>(Random(1, 40));
  if (Chance(20)) stopping.min_tokens = static_cast<int32_t>(Random(1, 8));
  if (Chance(30)) {
    ReasoningParams& reasoning = request->reasoning;
    reasoning.start_token_id = kThinkStart;
    reasoning.end_token_id = kThinkEnd;
    reasoning.starts_closed = Chance(10);
    if (Chance(70)) reasoning.max_thinking_tokens = static_cast<int32_t>(Random(0, 6));
    reasoning.close_token_ids =
        Chance(50) ? std::vector<int32_t>{20, kThinkEnd, 21} : std::vector<int32_t>{kThinkEnd};
  }
}

void Simulation::MakeRequests() {
  const int64_t count = Random(1, 16);
  const int64_t tenants = Chance(50) ? 1 : Random(2, 4);
  absl::Time at = now_;
  for (int64_t i = 0; i < count; ++i) {
    SimRequest sim;
    sim.id = static_cast<SequenceId>(i + 1);
    sim.request = std::make_shared<GenerateRequest>();
    sim.request->prompt_ids = RandomPrompt();
    RandomSampling(sim.request.get());
    at += absl::Milliseconds(Chance(50) ? 0 : Random(0, 60));
    sim.queued_at = at;
    sim.request->priority = static_cast<int32_t>(Chance(60) ? 0 : Random(-3, 3));
    if (Chance(10)) sim.request->deadline = at + absl::Milliseconds(Random(0, 300));
    if (Chance(20)) sim.request->cache_salt = "salt";
    if (tenants > 1) {
      TenantClaim& tenant = sim.request->tenant;
      tenant.name = absl::StrCat("tenant-", Random(1, tenants));
      tenant.weight = Chance(70) ? 1 : static_cast<double>(Random(1, 50)) / 10;
      tenant.kv_share = Chance(60) ? 0 : static_cast<double>(Random(1, 10)) / 10;
    }
    sim.request->use_prefix_cache = !Chance(10);
    sim.seed = random_();
    if (Chance(70)) sim.stop_ids = {kEos};
    if (Chance(30)) sim.stop_ids.push_back(7);
    if (Chance(10)) sim.text_stop_at = Random(1, 10);
    sim.expected = ExpectedTokens(*sim.request, {.seed = sim.seed,
                                                 .stop_ids = sim.stop_ids,
                                                 .max_model_len = options_.max_model_len,
                                                 .vocab_size = kVocab});
    arrivals_.push_back(sim.id);
    requests_[sim.id] = std::move(sim);
  }
  std::reverse(arrivals_.begin(), arrivals_.end());
}

void Simulation::AddArrivals() {
  while (!arrivals_.empty() && requests_[arrivals_.back()].queued_at <= now_) {
    SimRequest& sim = requests_[arrivals_.back()];
    arrivals_.pop_back();
    scheduler_.Add(std::make_unique<Sequence>(
        SequenceInit{.id = sim.id,
                     .request = sim.request,
                     .seed = sim.seed,
                     .stop_ids = sim.stop_ids,
                     .mask = MaskOf(sim.request->sampling, kVocab),
                     .wants_prompt_logprobs = sim.request->sampling.prompt_logprobs.has_value(),
                     .queued_at = sim.queued_at},
        options_.max_model_len));
    live_.insert(sim.id);
  }
}

void Simulation::End(SequenceId id) {
  if (live_.erase(id) == 0) Fail("a sequence ended that was not live");
  if (++requests_[id].ends != 1) Fail("a sequence ended twice");
}

void Simulation::CancelSome(int percent) {
  if (live_.empty() || !Chance(percent)) return;
  auto it = live_.begin();
  std::advance(it, Random(0, static_cast<int64_t>(live_.size()) - 1));
  const SequenceId id = *it;
  End(id);
  ++stats_.cancelled;
  if (fault_ == SimulatedFault::kLeakedSequence) {
    // The driver believes the sequence gone, the scheduler never hears of it.
    fault_ = SimulatedFault::kNone;
    return;
  }
  scheduler_.Finish(id);
  scheduler_.Finish(id);  // idempotent
}

// Every running sequence is in the plan, unless it had to wait for a token or for room for its list
// of penalties.
void Simulation::CheckProgress(int32_t blocked, const BatchPlan& plan) {
  const auto& offsets = plan.sampling.pen_offsets;
  int32_t lists = 0;
  for (size_t i = 1; i < offsets.size(); ++i) lists += offsets[i] > offsets[i - 1] ? 1 : 0;
  const auto listed = static_cast<int64_t>(plan.sampling.pen_tokens.size());
  if (listed > MaxListedTokens(options_.max_num_batched_tokens,
                               WithShortLists(options_).max_model_len) &&
      lists > 1) {
    Fail("the lists of penalties are too long");
  }
  const int32_t left_out = scheduler_.stats().num_running - blocked - plan.num_sequences();
  int32_t unlisted = 0;
  for (const Sequence* sequence : scheduler_.sequences()) {
    if (sequence->state != SequenceState::kRunning || !sequence->has_penalties()) continue;
    const bool wants_to_draw = sequence->num_planned + 1 == sequence->next_position();
    if (!sequence->penalties_listed && wants_to_draw) ++unlisted;
  }
  if (left_out < 0 || left_out > unlisted || (left_out > 0 && listed == 0)) {
    Fail("a running sequence does not progress");
  }
  stats_.waited_for_lists += left_out;
}

// `blocked`: sequences that ran before and run on, but had to wait for a token.
void Simulation::CheckSchedule(bool had_work, int32_t blocked, const ScheduleResult& result) {
  const BatchPlan& plan = result.plan;
  if (plan.num_tokens() > options_.max_num_batched_tokens) Fail("the token budget is exceeded");
  if (plan.num_tokens() != result.prefill_tokens + result.decode_tokens) Fail("tokens miscounted");
  if (scheduler_.stats().num_running > options_.max_num_seqs) Fail("too many running sequences");
  CheckProgress(blocked, plan);
  if (!had_work && plan.num_sequences() > 0) Fail("work out of nothing");
  if (plan.num_sequences() == 0 && !scheduler_.idle() && !result.wake_at.has_value() &&
      scheduler_.num_steps_under_way() == 0) {
    Fail("nothing runs although somebody waits");
  }
  if (result.wake_at.has_value() && *result.wake_at <= now_) Fail("wakes up in the past");
  for (SequenceId id : result.started) ++requests_[id].starts;
  stats_.preemptions += static_cast<int64_t>(result.preempted.size());
}

// Whoever waits comes behind everyone of the same tenant who runs or entered later: nobody is
// overtaken.
void Simulation::CheckOrder(const std::set<SequenceId>& waited) {
  std::map<const TenantAccount*, const Sequence*> first_waiting;
  const auto before = [&](const Sequence& a, const Sequence& b) {
    return ServiceOrder::Of(a, options_.ageing) < ServiceOrder::Of(b, options_.ageing);
  };
  for (const Sequence* sequence : scheduler_.sequences()) {
    if (sequence->state != SequenceState::kWaiting) continue;
    const Sequence*& first = first_waiting[sequence->tenant];
    if (first == nullptr || before(*sequence, *first)) first = sequence;
  }
  for (const Sequence* sequence : scheduler_.sequences()) {
    const Sequence* first = first_waiting[sequence->tenant];
    if (first != nullptr && sequence->state == SequenceState::kRunning &&
        waited.contains(sequence->id()) && before(*first, *sequence)) {
      Fail("a waiting sequence was overtaken");
    }
  }
}

void Simulation::CheckPromptRows(SimRequest* sim, const SequenceUpdate& update,
                                 const BatchResult& result) {
  for (int32_t i = 0; i < update.num_prompt_rows; ++i) {
    const auto position = sim->prompt_rows + 1;
    const int32_t row = update.first_prompt_row + i;
    if (position >= sim->request->prompt_ids.size()) return Fail("too many prompt logprobs");
    if (result.token[row] != sim->request->prompt_ids[position]) Fail("wrong prompt row");
    if (result.logprob[row] != sim->expected.prompt_logprobs[position - 1]) {
      Fail("wrong prompt logprob");
    }
    ++sim->prompt_rows;
  }
}

void Simulation::CheckFinish(SimRequest* sim, const SequenceUpdate& update) {
  if (update.unusable != sim->expected.unusable) Fail("a draw failed that should not, or reverse");
  if (sim->received != sim->expected.tokens.size()) Fail("tokens are missing at the end");
  if (update.finish.has_value() && update.finish->reason != sim->expected.reason) {
    Fail("wrong finish reason");
  }
  if (update.reasoning_tokens != sim->expected.reasoning_tokens) Fail("wrong reasoning tokens");
  const auto wanted =
      sim->request->sampling.prompt_logprobs.has_value() ? sim->request->prompt_ids.size() - 1 : 0;
  if (sim->prompt_rows != wanted) Fail("prompt logprobs are missing");
  ++stats_.finished;
}

void Simulation::CheckUpdate(const SequenceUpdate& update, const BatchResult& result) {
  SimRequest& sim = requests_[update.id];
  if (!live_.contains(update.id)) return Fail("an update for a sequence that has ended");
  CheckPromptRows(&sim, update, result);
  const bool ended = update.finish.has_value() || update.unusable;
  if (update.token >= 0) {
    if (sim.received >= sim.expected.tokens.size()) return Fail("a token after the end");
    if (sim.expected.tokens[sim.received] != update.token) return Fail("a wrong token");
    ++sim.received;
    ++stats_.tokens;
  }
  if (ended) {
    CheckFinish(&sim, update);
    End(update.id);
  } else if (update.token >= 0 && static_cast<int64_t>(sim.received) == sim.text_stop_at) {
    End(update.id);
    scheduler_.Finish(update.id);
  }
}

bool Simulation::PlanStep() {
  const std::vector<const Sequence*> before = scheduler_.sequences();
  std::set<SequenceId> waited;
  std::set<SequenceId> blocked;
  for (const Sequence* s : before) {
    if (s->state == SequenceState::kWaiting) waited.insert(s->id());
    if (s->state == SequenceState::kRunning && !s->CanBePlanned()) blocked.insert(s->id());
  }
  const ScheduleResult schedule = scheduler_.Schedule(now_);
  int32_t still_blocked = 0;
  for (const Sequence* s : scheduler_.sequences()) {
    if (s->state == SequenceState::kRunning && blocked.contains(s->id())) ++still_blocked;
  }
  stats_.waits += still_blocked;
  CheckSchedule(!before.empty(), still_blocked, schedule);
  CheckOrder(waited);
  for (SequenceId id : schedule.expired) {
    if (requests_[id].request->deadline > now_) Fail("expired too early");
    End(id);
    ++stats_.expired;
  }
  for (SequenceId id : live_) {
    if (requests_[id].request->deadline <= now_) Fail("lives beyond its deadline");
  }
  if (schedule.plan.num_sequences() == 0) {
    if (schedule.wake_at.has_value()) {
      now_ = std::max(now_, std::min(*schedule.wake_at, now_ + absl::Milliseconds(5)));
    }
    return false;
  }
  if (fault_ == SimulatedFault::kLostKvWrite && stats_.tokens > 0) {
    model_.LoseNextWrite();
    fault_ = SimulatedFault::kNone;
  }
  results_.push_back(model_.Run(schedule.plan));
  if (model_.error() != nullptr) Fail(model_.error());
  return true;
}

void Simulation::ApplyStep() {
  const BatchResult result = std::move(results_.front());
  results_.pop_front();
  auto unanswered = static_cast<int64_t>(result.token.size());
  for (const SequenceUpdate& update : scheduler_.Apply(result)) {
    unanswered -= update.num_prompt_rows + (update.row >= 0 ? 1 : 0);
    if (update.token >= 0 && fault_ == SimulatedFault::kDroppedToken) {
      fault_ = SimulatedFault::kNone;
      continue;
    }
    CheckUpdate(update, result);
    if (update.token >= 0 && fault_ == SimulatedFault::kRepeatedToken) {
      fault_ = SimulatedFault::kNone;
      CheckUpdate(update, result);
    }
  }
  stats_.discarded_rows += unanswered;
}

void Simulation::Step() {
  ++stats_.steps;
  now_ += absl::Milliseconds(Random(0, 10));
  AddArrivals();
  CancelSome(4);
  const bool planned = PlanStep();
  if (!error_.empty()) return;
  CancelSome(4);
  const bool full = static_cast<int32_t>(results_.size()) == depth_;
  if (!results_.empty() && (full || !planned)) ApplyStep();
  const absl::Status integrity = scheduler_.CheckIntegrity();
  if (!integrity.ok()) Fail(std::string(integrity.message()));
}

void Simulation::CheckEnd() {
  if (!live_.empty()) Fail("a sequence never ended");
  const SchedulerStats stats = scheduler_.stats();
  if (stats.blocks_used != 0) Fail("blocks are still used at the end");
  if (stats.blocks_free + stats.blocks_cached != stats.blocks_total) Fail("blocks are missing");
  if (!scheduler_.idle()) Fail("the scheduler is not idle at the end");
  if (scheduler_.num_steps_under_way() != 0) Fail("steps are under way at the end");
  for (const auto& [id, sim] : requests_) {
    if (sim.ends != 1) Fail("a sequence did not end exactly once");
    if (sim.starts > 1) Fail("a sequence started twice");
    if (sim.received > 0 && sim.starts != 1) Fail("tokens without a start");
  }
  stats_.cached_tokens = stats.prefix_cache_hits;
}

std::string Simulation::Run() {
  // Enough for every request alone with one token per step, ten times over.
  const int64_t limit = 2000 + 10 * static_cast<int64_t>(requests_.size()) * options_.max_model_len;
  while (error_.empty() &&
         !(arrivals_.empty() && results_.empty() && (live_.empty() || scheduler_.idle()))) {
    Step();
    if (stats_.steps > limit) Fail("does not come to an end");
  }
  // What runs without an owner shows here.
  if (error_.empty()) CheckEnd();
  return error_;
}

}  // namespace

std::string Simulate(uint64_t seed, int32_t depth, SimulatedFault fault, SimulationStats* stats) {
  Simulation simulation(seed, depth, fault);
  std::string error = simulation.Run();
  const SimulationStats one = simulation.stats();
  stats->steps += one.steps;
  stats->tokens += one.tokens;
  stats->preemptions += one.preemptions;
  stats->cached_tokens += one.cached_tokens;
  stats->cancelled += one.cancelled;
  stats->expired += one.expired;
  stats->finished += one.finished;
  stats->discarded_rows += one.discarded_rows;
  stats->waits += one.waits;
  stats->waited_for_lists += one.waited_for_lists;
  return error;
}

}  // namespace tessera
