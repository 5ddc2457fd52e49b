#include "tests/support/skewed_moe.h"

#include <numeric>

#include "absl/strings/str_cat.h"
#include "tests/support/checkpoint_writer.h"

namespace tessera {
namespace {

constexpr int32_t kPromptTokens = 128;

SamplingPlan OneGreedyRow(int32_t position) {
  return {.forced = {-1},
          .temperature = {0},
          .top_k = {0},
          .top_p = {1},
          .min_p = {0},
          .repetition_penalty = {1},
          .presence_penalty = {0},
          .frequency_penalty = {0},
          .seed = {0},
          .position = {position},
          .num_logprobs = {-1},
          .penalty_slot = {-1},
          .penalty_reset = {0},
          .pen_offsets = {0, 0},
          .pen_tokens = {},
          .pen_counts = {},
          .adj_offsets = {0, 0},
          .adj_tokens = {},
          .adj_values = {},
          .masks = {},
          .mask_row = {-1},
          .mask_penalty = {0}};
}

}  // namespace

absl::Status WriteSkewedMoe(const SkewedMoeShape& shape, const std::string& folder) {
  const std::string config = absl::StrCat(
      R"({"architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe", "vocab_size": )",
      kSkewedVocab, R"(, "hidden_size": )", shape.hidden, R"(, "intermediate_size": 64,
      "num_hidden_layers": )",
      shape.layers, R"(, "num_attention_heads": 4,
      "num_key_value_heads": 4, "head_dim": 16, "num_experts": )",
      shape.experts, R"(,
      "num_experts_per_tok": 2, "moe_intermediate_size": )",
      shape.expert_width, R"(,
      "norm_topk_prob": true, "decoder_sparse_step": 1, "mlp_only_layers": [],
      "rms_norm_eps": 1e-06, "rope_theta": 10000, "max_position_embeddings": 512,
      "eos_token_id": 1, "torch_dtype": "bfloat16", "tie_word_embeddings": false})");
  // As many as one of four ranks holds.
  return WriteRandomCheckpoint(config, folder, {.favoured_experts = shape.experts / 4});
}

StepPlan SteadyWorkload::Next() {
  const auto groups = static_cast<int32_t>(texts_.size());
  if (step_ % kStepsPerRound == 0) {
    computed_.assign(groups, 0);
    for (int32_t g = 0; g < groups; ++g) {
      texts_[g].clear();
      for (int32_t t = 0; t < kPromptTokens; ++t) {
        texts_[g].push_back((t * t * 7 + t * 31 + (first_group_ + g) * 53) % kSkewedVocab);
      }
    }
  }
  StepPlan plan{.step_id = ++step_};
  plan.return_logits = true;
  for (int32_t g = 0; g < groups; ++g) plan.groups.push_back(Batch(g));
  return plan;
}

BatchPlan SteadyWorkload::Batch(int32_t group) const {
  const std::vector<int32_t>& text = texts_[group];
  const int32_t begin = computed_[group];
  const auto end = static_cast<int32_t>(text.size());
  BatchPlan plan;
  plan.token_ids.assign(text.begin() + begin, text.end());
  plan.token_source.assign(end - begin, -1);
  plan.positions.resize(end - begin);
  std::iota(plan.positions.begin(), plan.positions.end(), begin);
  plan.slot_mapping = plan.positions;
  plan.cu_seqlens = {0, end - begin};
  plan.context_lens = {end};
  plan.max_blocks = kNumBlocks;
  plan.block_tables.resize(kNumBlocks);
  std::iota(plan.block_tables.begin(), plan.block_tables.end(), 0);
  plan.logits_rows = {end - begin - 1};
  plan.sampling = OneGreedyRow(end);
  return plan;
}

std::vector<int32_t> SteadyWorkload::Take(const StepResult& result) {
  std::vector<int32_t> tokens;
  for (size_t g = 0; g < texts_.size(); ++g) {
    computed_[g] = static_cast<int32_t>(texts_[g].size());
    tokens.push_back(result.groups[g].token[0]);
    texts_[g].push_back(tokens.back());
  }
  return tokens;
}

}  // namespace tessera
