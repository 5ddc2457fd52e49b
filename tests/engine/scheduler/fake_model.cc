#include "tests/engine/scheduler/fake_model.h"

#include <algorithm>
#include <cmath>

#include "kernels/core/bit_mask.h"

namespace tessera {

int32_t DrawToken(const DrawInputs& inputs, int32_t vocab_size) {
  uint64_t hash = Mix(Mix(inputs.context, inputs.seed), static_cast<uint64_t>(inputs.position));
  hash = Mix(hash, inputs.penalties);
  const auto first = static_cast<int32_t>(hash % static_cast<uint64_t>(vocab_size));
  for (int32_t i = 0; i < vocab_size; ++i) {
    const int32_t token = (first + i) % vocab_size;
    if (std::find(inputs.banned.begin(), inputs.banned.end(), token) == inputs.banned.end()) {
      return token;
    }
  }
  return -1;
}

uint64_t MixPenalty(uint64_t penalties, int32_t token, int32_t count) {
  return penalties + Mix(static_cast<uint64_t>(token), static_cast<uint64_t>(count));
}

float FakeLogprob(uint64_t context, int32_t token) {
  return -static_cast<float>(Mix(context, static_cast<uint64_t>(token)) % 4096) / 256.0F;
}

FakeModel::FakeModel(int32_t num_blocks, int32_t block_size, int32_t vocab_size)
    : block_size_(block_size),
      vocab_size_(vocab_size),
      slots_(static_cast<size_t>(num_blocks) * block_size, 0) {}

bool FakeModel::ShapesAgree(const BatchPlan& plan) {
  const auto tokens = plan.token_ids.size();
  const auto rows = plan.logits_rows.size();
  const SamplingPlan& s = plan.sampling;
  const bool ok =
      plan.token_source.size() == tokens && plan.positions.size() == tokens &&
      plan.slot_mapping.size() == tokens &&
      plan.cu_seqlens.size() == plan.context_lens.size() + 1 &&
      plan.cu_seqlens.back() == plan.num_tokens() &&
      plan.block_tables.size() == plan.context_lens.size() * plan.max_blocks &&
      std::is_sorted(plan.logits_rows.begin(), plan.logits_rows.end()) &&
      (rows == 0 || plan.logits_rows.back() < plan.num_tokens()) && s.forced.size() == rows &&
      s.temperature.size() == rows && s.top_k.size() == rows && s.top_p.size() == rows &&
      s.min_p.size() == rows && s.repetition_penalty.size() == rows &&
      s.presence_penalty.size() == rows && s.frequency_penalty.size() == rows &&
      s.seed.size() == rows && s.position.size() == rows && s.num_logprobs.size() == rows &&
      s.penalty_slot.size() == rows && s.penalty_reset.size() == rows &&
      s.pen_offsets.size() == rows + 1 && s.adj_offsets.size() == rows + 1 &&
      s.pen_tokens.size() == s.pen_counts.size() && s.adj_tokens.size() == s.adj_values.size() &&
      s.pen_offsets.back() == static_cast<int32_t>(s.pen_tokens.size()) &&
      s.adj_offsets.back() == static_cast<int32_t>(s.adj_tokens.size()) &&
      static_cast<int64_t>(s.masks.size()) == s.num_masks * MaskWords(vocab_size_) &&
      s.mask_row.size() == rows && s.mask_penalty.size() == rows &&
      plan.copy_from.size() == plan.copy_to.size() &&
      std::all_of(s.mask_row.begin(), s.mask_row.end(),
                  [&](int32_t row) { return row >= -1 && row < s.num_masks; });
  if (!ok) error_ = "the arrays of the plan do not fit together";
  return ok;
}

int32_t FakeModel::TokenAt(const BatchPlan& plan, int32_t t) {
  const int32_t row = plan.token_source[t];
  if ((row < 0) != (plan.token_ids[t] >= 0)) error_ = "a token has no source, or two";
  if (row < 0) return plan.token_ids[t];
  if (row < static_cast<int32_t>(drawn_.size())) return drawn_[row];
  error_ = "a token is to come from a row that the step before did not have";
  return 0;
}

void FakeModel::RunSequence(const BatchPlan& plan, int32_t s, std::vector<uint64_t>* contexts) {
  const int32_t* table = plan.block_tables.data() + static_cast<size_t>(s) * plan.max_blocks;
  const int32_t begin = plan.cu_seqlens[s];
  const int32_t end = plan.cu_seqlens[s + 1];
  if (plan.context_lens[s] - (end - begin) != plan.positions[begin]) {
    error_ = "a chunk does not end at its context length";
    return;
  }
  for (int32_t t = begin; t < end; ++t) {
    const int32_t p = plan.positions[t];
    const int32_t slot = table[p / block_size_] * block_size_ + p % block_size_;
    if (slot != plan.slot_mapping[t] || p != plan.positions[begin] + t - begin) {
      error_ = "a slot does not belong to its position";
      return;
    }
    uint64_t context = 0;
    if (p > 0) context = slots_[table[(p - 1) / block_size_] * block_size_ + (p - 1) % block_size_];
    context = ExtendContext(context, TokenAt(plan, t));
    (*contexts)[t] = context;
    if (!lose_next_write_) slots_[slot] = context;
    lose_next_write_ = false;
  }
}

// After what the row says about it; null without one.
FakeModel::Counts* FakeModel::SlotOf(const SamplingPlan& plan, int32_t row) {
  const int32_t slot = plan.penalty_slot[row];
  const bool resets = plan.penalty_reset[row] == 1;
  const int32_t begin = plan.pen_offsets[row];
  const int32_t end = plan.pen_offsets[row + 1];
  if (!resets && end > begin) error_ = "a list without a reset";
  if (std::count(plan.penalty_slot.begin(), plan.penalty_slot.end(), slot) > 1 && slot >= 0) {
    error_ = "two rows have the same slot";
  }
  if (slot < 0) {
    if (resets) error_ = "a reset without a slot";
    return nullptr;
  }
  if (!resets && !penalties_.contains(slot)) error_ = "a slot was never reset";
  Counts& counts = penalties_[slot];
  if (resets) counts.clear();
  for (int32_t i = begin; i < end; ++i) {
    if (!counts.emplace(plan.pen_tokens[i], plan.pen_counts[i]).second) error_ = "listed twice";
  }
  return &counts;
}

void FakeModel::CopyBlocks(const BatchPlan& plan) {
  for (size_t i = 0; i < plan.copy_from.size(); ++i) {
    const int32_t to = plan.copy_to[i];
    if (std::count(plan.copy_to.begin(), plan.copy_to.end(), to) > 1 ||
        std::count(plan.copy_from.begin(), plan.copy_from.end(), to) > 0) {
      error_ = "a block that is copied to is in two pairs";
    }
    std::copy_n(slots_.begin() + plan.copy_from[i] * block_size_, block_size_,
                slots_.begin() + to * block_size_);
  }
}

// Banned tokens are none.
void FakeModel::ListCandidates(const DrawInputs& inputs, int32_t count, BatchResult* result) {
  std::vector<std::pair<float, int32_t>> all;  // of -logprob
  for (int32_t id = 0; id < vocab_size_; ++id) {
    if (std::find(inputs.banned.begin(), inputs.banned.end(), id) == inputs.banned.end()) {
      all.emplace_back(-FakeLogprob(inputs.context, id), id);
    }
  }
  std::sort(all.begin(), all.end());
  result->token.push_back(all.empty() ? -1 : all[0].second);
  result->logprob.push_back(all.empty() ? 0.0F : -all[0].first);
  result->rank.push_back(1);
  for (int32_t k = 0; k < result->num_top; ++k) {
    // What the row does not ask for is whatever was there before.
    const bool there = k < count && k < static_cast<int32_t>(all.size());
    result->top_tokens.push_back(there ? all[k].second : k < count ? -1 : 0);
    result->top_logprobs.push_back(there ? -all[k].first : 0.0F);
  }
}

void FakeModel::Sample(const BatchPlan& plan, int32_t row, uint64_t context, BatchResult* result) {
  const SamplingPlan& s = plan.sampling;
  DrawInputs inputs{
      .context = context, .seed = static_cast<uint64_t>(s.seed[row]), .position = s.position[row]};
  Counts* counts = SlotOf(s, row);
  if (counts != nullptr) {
    for (const auto& [token, count] : *counts) {
      inputs.penalties = MixPenalty(inputs.penalties, token, count);
    }
  }
  for (int32_t i = s.adj_offsets[row]; i < s.adj_offsets[row + 1]; ++i) {
    if (std::isinf(s.adj_values[i])) inputs.banned.push_back(s.adj_tokens[i]);
  }
  if (s.mask_row[row] >= 0) {
    const int32_t* mask = s.masks.data() + s.mask_row[row] * MaskWords(vocab_size_);
    for (int32_t id = 0; id < vocab_size_; ++id) {
      if (!IsInMask(mask, id)) inputs.banned.push_back(id);
    }
  }
  if (s.forced[row] == kCandidateRow) {
    if (counts != nullptr) error_ = "candidates of a row with penalties";
    return ListCandidates(inputs, s.num_logprobs[row], result);
  }
  const int32_t token = s.forced[row] >= 0 ? s.forced[row] : DrawToken(inputs, vocab_size_);
  if (counts != nullptr && token >= 0) ++(*counts)[token];
  result->token.push_back(token);
  result->logprob.push_back(FakeLogprob(context, token));
  result->rank.push_back(1);
  for (int32_t k = 0; k < result->num_top; ++k) {
    result->top_tokens.push_back((token + k) % vocab_size_);
    result->top_logprobs.push_back(-static_cast<float>(k));
  }
}

BatchResult FakeModel::Run(const BatchPlan& plan) {
  BatchResult result;
  if (plan.num_sequences() == 0 || !ShapesAgree(plan)) return result;
  CopyBlocks(plan);
  std::vector<uint64_t> contexts(plan.num_tokens(), 0);
  for (int32_t s = 0; s < plan.num_sequences(); ++s) RunSequence(plan, s, &contexts);
  for (int32_t wanted : plan.sampling.num_logprobs) {
    result.num_top = std::max(result.num_top, wanted);
  }
  for (int32_t row = 0; row < plan.num_logits(); ++row) {
    Sample(plan, row, contexts[plan.logits_rows[row]], &result);
  }
  drawn_ = result.token;
  return result;
}

}  // namespace tessera
