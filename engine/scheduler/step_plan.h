// One step's work as flat arrays: made by the scheduler, run by every rank, serialisable.
#ifndef TESSERA_ENGINE_SCHEDULER_STEP_PLAN_H_
#define TESSERA_ENGINE_SCHEDULER_STEP_PLAN_H_

#include <algorithm>
#include <cstdint>
#include <vector>

namespace tessera {

// The lists of penalties in one step and group have together at most so many tokens, so that the
// longest fits and the others do not wait long.
constexpr int64_t MaxListedTokens(int32_t max_num_batched_tokens, int32_t max_model_len) {
  return 2 * int64_t{max_num_batched_tokens} + max_model_len;
}

// SampleArgs::kCandidateRow in kernels/ops.h.
inline constexpr int32_t kCandidateRow = -3;

// Sampling inputs, one entry per logits row unless stated; see SampleArgs in kernels/ops.h.
struct SamplingPlan {
  // >= 0: this token is the result (budget, prompt logprobs); kCandidateRow: a beam's candidates
  std::vector<int32_t> forced;
  std::vector<float> temperature;
  std::vector<int32_t> top_k;
  std::vector<float> top_p;
  std::vector<float> min_p;
  std::vector<float> repetition_penalty;
  std::vector<float> presence_penalty;
  std::vector<float> frequency_penalty;
  std::vector<int64_t> seed;
  std::vector<int32_t> position;
  std::vector<int32_t> num_logprobs;   // -1: none
  std::vector<int32_t> penalty_slot;   // distinct, -1: no penalties
  std::vector<int32_t> penalty_reset;  // 0 or 1: the slot begins anew with the row's list
  std::vector<int32_t> pen_offsets;    // [N + 1] empty lists for rows that do not reset
  std::vector<int32_t> pen_tokens;
  std::vector<int32_t> pen_counts;
  std::vector<int32_t> adj_offsets;  // [N + 1]
  std::vector<int32_t> adj_tokens;
  std::vector<float> adj_values;
  int32_t num_masks = 0;
  std::vector<int32_t> masks;       // [num_masks, MaskWords(vocab_size)], one per distinct set
  std::vector<int32_t> mask_row;    // of `masks`, -1: every token is allowed
  std::vector<float> mask_penalty;  // of candidate rows
};

// The part of a step that one data-parallel group runs. S sequences, T tokens, N logits rows.
struct BatchPlan {
  std::vector<int32_t> token_ids;  // [T]; -1 where token_source names a row
  // [T] row of the step before (of this group) that drew the token; -1: it is in token_ids.
  std::vector<int32_t> token_source;
  std::vector<int32_t> positions;     // [T]
  std::vector<int32_t> slot_mapping;  // [T] block * block_size + offset
  std::vector<int32_t> cu_seqlens;    // [S + 1] query row ranges
  std::vector<int32_t> context_lens;  // [S] positions visible, this chunk included
  int32_t max_blocks = 0;
  std::vector<int32_t> block_tables;  // [S, max_blocks]; -1 behind a sequence's last
  std::vector<int32_t> logits_rows;   // [N] ascending indices into the tokens
  SamplingPlan sampling;              // [N]
  // Before anything else of the step: block copy_to[i] becomes a copy of block copy_from[i], in
  // every layer. What is copied to is in no other pair. One pair per sequence at most.
  std::vector<int32_t> copy_from;
  std::vector<int32_t> copy_to;

  int32_t num_tokens() const { return static_cast<int32_t>(token_ids.size()); }
  int32_t num_sequences() const { return static_cast<int32_t>(context_lens.size()); }
  bool has_sources() const {
    return std::any_of(token_source.begin(), token_source.end(), [](int32_t r) { return r >= 0; });
  }
  int32_t num_logits() const { return static_cast<int32_t>(logits_rows.size()); }
};

struct StepPlan {
  uint64_t step_id = 0;
  std::vector<BatchPlan> groups;  // one per data-parallel group; may be empty for some
  bool return_logits = false;     // also bring the raw logits to the host (score, tests)
};

// Results of one group, one entry per logits row.
struct BatchResult {
  std::vector<int32_t> token;  // -1: the row's logits were unusable (NaN or everything banned)
  std::vector<float> logprob;
  std::vector<int32_t> rank;
  int32_t num_top = 0;
  std::vector<int32_t> top_tokens;  // [N, num_top]
  std::vector<float> top_logprobs;  // [N, num_top]
  std::vector<float> logits;        // [N, vocab_size] when asked for
};

}  // namespace tessera

#endif  // TESSERA_ENGINE_SCHEDULER_STEP_PLAN_H_
