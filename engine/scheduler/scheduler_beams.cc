// Beams: every beam of a request is a sequence; those of a step go on together.
#include <algorithm>
#include <utility>

#include "engine/scheduler/scheduler.h"
#include "kernels/core/status_macros.h"

namespace tessera {
namespace {

// What a row says can follow the beam; a forced token alone.
BeamCandidates CandidatesOf(const Sequence& beam, const BatchResult& result, int32_t row) {
  if (beam.ForcedToken() >= 0) return {{result.token[row], result.logprob[row]}};
  BeamCandidates candidates;
  const size_t begin = static_cast<size_t>(row) * result.num_top;
  for (size_t i = begin; i < begin + beam.num_candidates(); ++i) {
    if (result.top_tokens[i] < 0) break;
    candidates.push_back({result.top_tokens[i], result.top_logprobs[i]});
  }
  return candidates;
}

// What a search tells of a token: its place and neighbours among what the beam could go on with.
TokenLogprobs LogprobsOf(const BeamStep& step, const BeamCandidates& candidates, int32_t num_top) {
  TokenLogprobs told{.token = step.token, .logprob = step.logprob};
  const auto place = std::find_if(candidates.begin(), candidates.end(),
                                  [&](const auto& other) { return other.token == step.token; });
  told.rank = static_cast<int32_t>(place - candidates.begin()) + 1;
  const auto count = std::min<size_t>(num_top, candidates.size());
  told.top.assign(candidates.begin(), candidates.begin() + static_cast<std::ptrdiff_t>(count));
  return told;
}

BeamHypothesis HypothesisOf(const Sequence& beam, const BeamStep& step, const TokenFinish& finish) {
  const std::vector<int32_t>& tokens = beam.tokens();
  BeamHypothesis text{.tokens = {tokens.begin() + beam.prompt_length(), tokens.end()},
                      .logprobs = beam.beam_logprobs,
                      .reason = finish.reason,
                      .stop_token_id = finish.stop_token_id};
  text.tokens.push_back(step.token);
  if (beam.request().sampling.logprobs.has_value()) {
    text.logprobs.push_back(LogprobsOf(step, *beam.candidates, *beam.request().sampling.logprobs));
  }
  ThinkingBudget thinking = beam.thinking();
  thinking.Push(step.token);
  text.reasoning_tokens = thinking.reasoning_tokens();
  text.thinking_budget_enforced = thinking.enforced();
  return text;
}

// An id that no live beam has. The request's ids are its own (kMaxChoices).
SequenceId FreeId(const std::vector<Sequence*>& live, SequenceId any) {
  const uint64_t first = static_cast<uint64_t>(any) / kMaxChoices * kMaxChoices;
  for (uint64_t id = first;; ++id) {
    const bool taken = std::any_of(live.begin(), live.end(), [&](const Sequence* beam) {
      return beam->id() == static_cast<SequenceId>(id);
    });
    if (!taken) return static_cast<SequenceId>(id);
  }
}

}  // namespace

// The row said what may follow the beam. Once all have been heard, the search takes a step.
void Scheduler::ApplyBeam(const PlannedSequence& planned, const BatchResult& result,
                          SequenceUpdate* update) {
  Sequence& beam = *planned.sequence;
  // A beam that lost its blocks meanwhile asks again, lest it be in a step when the others go on.
  if (planned.num_preemptions != beam.num_preemptions) return;
  const int32_t row = planned.first_row + planned.num_prompt_rows;
  BeamGroup& group = *beam.beams();
  if (group.live.empty()) group.live.push_back(&beam);
  update->unusable = result.token[row] < 0;
  if (update->unusable) return EndBeams(&group);
  beam.candidates = CandidatesOf(beam, result, row);
  const bool all = std::all_of(group.live.begin(), group.live.end(),
                               [](const Sequence* other) { return other->candidates.has_value(); });
  if (all) AdvanceBeams(&group, update);
}

void Scheduler::AdvanceBeams(BeamGroup* group, SequenceUpdate* update) {
  std::vector<BeamRow> rows;
  for (const Sequence* beam : group->live) {
    rows.push_back({.sum = beam->beam_sum, .candidates = &*beam->candidates});
  }
  TokenFinish finish;
  const std::vector<BeamStep> steps = group->search.Step(
      rows, {.ends =
                 [&](const BeamStep& step) {
                   return group->live[step.parent]->WouldEnd(step.token, &finish);
                 },
             .keep =
                 [&](const BeamStep& step, double score, size_t place) {
                   BeamHypothesis text = HypothesisOf(*group->live[step.parent], step, finish);
                   text.score = score;
                   group->hypotheses.insert(
                       group->hypotheses.begin() + static_cast<std::ptrdiff_t>(place),
                       std::move(text));
                   const auto width = static_cast<size_t>(group->search.width());
                   if (group->hypotheses.size() > width) group->hypotheses.pop_back();
                 }});
  if (!group->search.done()) {
    update->unusable = !MoveBeams(group, steps);
    if (update->unusable) EndBeams(group);
    return;
  }
  const auto wanted = static_cast<size_t>(group->live.front()->request().n);
  if (group->hypotheses.size() > wanted) group->hypotheses.resize(wanted);
  update->unusable = group->hypotheses.empty();
  update->beams = std::make_shared<const BeamResult>(std::move(group->hypotheses));
  EndBeams(group);
}

// The first that goes on from a beam is that beam itself, the others fork; who has no successor
// ends. False when a token breaks a structure that allowed it.
bool Scheduler::MoveBeams(BeamGroup* group, const std::vector<BeamStep>& steps) {
  const std::vector<Sequence*> parents = std::exchange(group->live, {});
  std::vector<Sequence*> all = parents;  // whose ids are taken
  for (const BeamStep& step : steps) {
    Sequence* const parent = parents[step.parent];
    std::vector<Sequence*>& live = group->live;
    if (std::find(live.begin(), live.end(), parent) == live.end()) {
      live.push_back(parent);
    } else {
      live.push_back(ForkBeam(*parent, FreeId(all, parent->id())));
      all.push_back(live.back());
    }
  }
  std::vector<BeamCandidates> heard;
  for (Sequence* parent : parents) {
    heard.push_back(*std::exchange(parent->candidates, std::nullopt));
    const auto& live = group->live;
    if (std::find(live.begin(), live.end(), parent) == live.end()) Remove(parent);
  }
  bool sound = true;
  for (size_t i = 0; i < steps.size(); ++i) {
    Sequence& beam = *group->live[i];
    beam.beam_sum = steps[i].sum;
    if (const auto num_top = beam.request().sampling.logprobs) {
      beam.beam_logprobs.push_back(LogprobsOf(steps[i], heard[steps[i].parent], *num_top));
    }
    TokenFinish finish;
    sound &= !beam.Append(steps[i].token, &finish);
  }
  return sound;
}

// Shares the parent's full blocks. Without a seat or a block it waits, as if it were preempted.
Sequence* Scheduler::ForkBeam(const Sequence& parent, SequenceId id) {
  const auto [entry, is_new] = sequences_.emplace(id, parent.Fork(id));
  TESSERA_CHECK(is_new);
  Sequence* const child = entry->second.get();
  std::optional<BlockCopy> copy;
  const bool runs = static_cast<int32_t>(running_.size()) < options_.max_num_seqs &&
                    kv_.Fork(parent.kv, parent.num_computed, &child->kv, &copy);
  if (copy.has_value()) copies_.push_back(*copy);
  child->state = SequenceState::kWaiting;
  tenants_.Enter(child);
  if (!runs) return child;
  tenants_.Start(child, now_);
  running_.emplace(OrderOf(*child), child);
  child->num_computed = child->num_planned = parent.num_computed;
  return child;
}

void Scheduler::EndBeams(BeamGroup* group) {
  for (Sequence* beam : std::exchange(group->live, {})) Remove(beam);
}

// Running beams that wait for others of their request, which wait for room: when nobody else is
// left to make some, the last give up theirs. The first in order then has it all to itself, and a
// request's beams all fit (EngineLoop::Submit).
void Scheduler::BreakStall(ScheduleResult* result) {
  const auto idle = [](const Queue::value_type& entry) {
    return entry.second->candidates.has_value();
  };
  while (planned_.empty() && under_way_.empty() && !running_.empty() &&
         tenants_.num_waiting() > 0 && std::all_of(running_.begin(), running_.end(), idle)) {
    Preempt(running_.rbegin()->second, result);
    AdmitWaiting(result);
  }
}

// Blocks to be copied before the step that is being planned. From now on they may come to mean
// something else, which is written behind the copies.
std::vector<BlockCopy> Scheduler::TakeCopies() {
  for (const BlockCopy& copy : copies_) kv_.EndCopy(copy);
  return std::exchange(copies_, {});
}

}  // namespace tessera
