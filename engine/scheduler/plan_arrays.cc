#include "engine/scheduler/plan_arrays.h"

#include <algorithm>
#include <limits>

namespace tessera {
namespace {

constexpr float kBanned = -std::numeric_limits<float>::infinity();

void Adjust(int32_t token, float value, SamplingPlan* plan) {
  plan->adj_tokens.push_back(token);
  plan->adj_values.push_back(value);
}

// A bad word of one token is always banned; the last token of a longer one when the output ends
// with the others.
void BanBadWords(const Sequence& sequence, SamplingPlan* plan) {
  const std::vector<int32_t>& tokens = sequence.tokens();
  for (const std::vector<int32_t>& word : sequence.request().sampling.bad_words) {
    if (word.empty()) continue;
    const auto head = static_cast<int32_t>(word.size()) - 1;
    if (head > sequence.num_output()) continue;
    if (std::equal(word.begin(), word.end() - 1, tokens.end() - head)) {
      Adjust(word.back(), kBanned, plan);
    }
  }
}

void AppendAdjustments(const Sequence& sequence, SamplingPlan* plan) {
  for (const auto& [token, bias] : sequence.request().sampling.logit_bias) {
    Adjust(token, bias, plan);
  }
  if (sequence.in_min_tokens()) {
    for (int32_t id : sequence.stop_ids()) Adjust(id, kBanned, plan);
  }
  BanBadWords(sequence, plan);
}

// The masks of a plan, each once.
class MaskTable {
 public:
  explicit MaskTable(SamplingPlan* plan) : plan_(*plan) {}

  // The row of the plan's masks that equals `mask`; -1 without one.
  int32_t RowOf(const TokenMask* mask) {
    if (mask == nullptr) return -1;
    for (int32_t row = 0; row < plan_.num_masks; ++row) {
      if (known_[row] == mask || *known_[row] == *mask) return row;
    }
    known_.push_back(mask);
    plan_.masks.insert(plan_.masks.end(), mask->words().begin(), mask->words().end());
    return plan_.num_masks++;
  }

 private:
  SamplingPlan& plan_;
  std::vector<const TokenMask*> known_;
};

// Lists the counts once; from then on the device keeps them.
void AddPenalties(Sequence* sequence, SamplingPlan* plan) {
  const bool resets = sequence->penalty_slot >= 0 && !sequence->penalties_listed;
  plan->penalty_slot.push_back(sequence->penalty_slot);
  plan->penalty_reset.push_back(resets ? 1 : 0);
  if (!resets) return;
  const TokenCounts& counts = sequence->token_counts();
  plan->pen_tokens.insert(plan->pen_tokens.end(), counts.tokens().begin(), counts.tokens().end());
  plan->pen_counts.insert(plan->pen_counts.end(), counts.counts().begin(), counts.counts().end());
  sequence->penalties_listed = true;
}

void CloseRow(SamplingPlan* plan) {
  plan->pen_offsets.push_back(static_cast<int32_t>(plan->pen_tokens.size()));
  plan->adj_offsets.push_back(static_cast<int32_t>(plan->adj_tokens.size()));
}

// A row that reports the logprob of a known token; nothing is drawn.
void AddPromptRow(const Sequence& sequence, int32_t position, SamplingPlan* plan) {
  plan->forced.push_back(sequence.tokens()[position]);
  plan->temperature.push_back(0.0F);
  plan->top_k.push_back(0);
  plan->top_p.push_back(1.0F);
  plan->min_p.push_back(0.0F);
  plan->repetition_penalty.push_back(1.0F);
  plan->presence_penalty.push_back(0.0F);
  plan->frequency_penalty.push_back(0.0F);
  plan->seed.push_back(0);
  plan->position.push_back(position);
  plan->num_logprobs.push_back(sequence.request().sampling.prompt_logprobs.value_or(0));
  plan->mask_row.push_back(-1);
  plan->mask_penalty.push_back(0.0F);
  plan->penalty_slot.push_back(-1);
  plan->penalty_reset.push_back(0);
  CloseRow(plan);
}

void AddSamplingRow(Sequence* drawing, MaskTable* masks, SamplingPlan* plan) {
  const Sequence& sequence = *drawing;
  const SamplingParams& params = sequence.request().sampling;
  const int32_t forced = sequence.ForcedToken();
  const BeamParams& beams = sequence.request().beams;
  const bool searches = sequence.beams() != nullptr;
  plan->forced.push_back(searches && forced < 0 ? kCandidateRow : forced);
  plan->temperature.push_back(searches ? 0.0F : params.temperature);
  plan->top_k.push_back(params.top_k);
  plan->top_p.push_back(params.top_p);
  plan->min_p.push_back(params.min_p);
  plan->repetition_penalty.push_back(params.repetition_penalty);
  plan->presence_penalty.push_back(params.presence_penalty);
  plan->frequency_penalty.push_back(params.frequency_penalty);
  plan->seed.push_back(static_cast<int64_t>(sequence.seed()));
  plan->position.push_back(sequence.next_position());
  const int32_t no_logprobs = sequence.request().output.confidence ? 0 : -1;
  plan->num_logprobs.push_back(searches ? sequence.num_candidates()
                                        : params.logprobs.value_or(no_logprobs));
  plan->mask_row.push_back(forced < 0 ? masks->RowOf(drawing->NextMask()) : -1);
  plan->mask_penalty.push_back(beams.grammar_penalty.value_or(-kBanned));
  AddPenalties(drawing, plan);
  if (forced < 0) AppendAdjustments(sequence, plan);
  CloseRow(plan);
}

void AddTokens(const PlannedSequence& planned, int32_t block_size, BatchPlan* plan) {
  const Sequence& sequence = *planned.sequence;
  const int32_t begin = sequence.num_planned;
  for (int32_t position = begin; position < begin + planned.num_tokens; ++position) {
    const auto block = static_cast<int32_t>(sequence.kv.blocks[position / block_size]);
    const bool known = position < sequence.num_tokens();
    plan->token_ids.push_back(known ? sequence.tokens()[position] : -1);
    plan->token_source.push_back(known ? -1 : sequence.drawing_row);
    plan->positions.push_back(position);
    plan->slot_mapping.push_back(block * block_size + position % block_size);
  }
  plan->cu_seqlens.push_back(plan->num_tokens());
  plan->context_lens.push_back(begin + planned.num_tokens);
}

void AddRows(PlannedSequence* planned, MaskTable* masks, BatchPlan* plan) {
  const Sequence& sequence = *planned->sequence;
  const int32_t begin = sequence.num_planned;
  const int32_t end = begin + planned->num_tokens;
  const int32_t first_token_row = plan->num_tokens() - planned->num_tokens;
  planned->first_row = plan->num_logits();
  planned->num_prompt_rows = 0;
  if (sequence.needs_prompt_logprobs()) {
    // The logits of position p speak about the token at p + 1. What an attempt before a preemption
    // has reported is not asked for again.
    const int32_t last = std::min(end, sequence.prompt_length() - 1);
    for (int32_t p = std::max(begin, sequence.num_prompt_logprobs); p < last; ++p) {
      plan->logits_rows.push_back(first_token_row + p - begin);
      AddPromptRow(sequence, p + 1, &plan->sampling);
      ++planned->num_prompt_rows;
    }
  }
  planned->samples = end == sequence.next_position();
  if (planned->samples) {
    plan->logits_rows.push_back(plan->num_tokens() - 1);
    AddSamplingRow(planned->sequence, masks, &plan->sampling);
  }
}

void AddBlockTables(const std::vector<PlannedSequence>& planned, BatchPlan* plan) {
  size_t longest = 0;
  for (const PlannedSequence& p : planned)
    longest = std::max(longest, p.sequence->kv.blocks.size());
  plan->max_blocks = static_cast<int32_t>(longest);
  plan->block_tables.assign(planned.size() * longest, -1);
  for (size_t s = 0; s < planned.size(); ++s) {
    int32_t* row = plan->block_tables.data() + s * longest;
    for (BlockId block : planned[s].sequence->kv.blocks) *row++ = static_cast<int32_t>(block);
  }
}

}  // namespace

BatchPlan BuildPlan(int32_t block_size, std::vector<PlannedSequence>* planned) {
  BatchPlan plan;
  plan.cu_seqlens.push_back(0);
  plan.sampling.pen_offsets.push_back(0);
  plan.sampling.adj_offsets.push_back(0);
  MaskTable masks(&plan.sampling);
  for (PlannedSequence& p : *planned) {
    AddTokens(p, block_size, &plan);
    AddRows(&p, &masks, &plan);
  }
  AddBlockTables(*planned, &plan);
  return plan;
}

}  // namespace tessera
