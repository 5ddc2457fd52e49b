#include "engine/executor/model_fingerprint.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <string>

#include "tests/support/checkpoint_writer.h"

namespace tessera {
namespace {

constexpr char kConfig[] = R"({
  "architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe", "vocab_size": 64,
  "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
  "num_key_value_heads": 1, "head_dim": 16, "hidden_act": "silu", "rms_norm_eps": 1e-06,
  "max_position_embeddings": 128, "rope_theta": 10000.0, "attention_bias": false,
  "tie_word_embeddings": false, "num_experts": 4, "num_experts_per_tok": 2,
  "moe_intermediate_size": 16, "norm_topk_prob": true, "decoder_sparse_step": 1,
  "mlp_only_layers": [], "torch_dtype": "bfloat16"})";

ModelFingerprint Fingerprint(const CheckpointWriterOptions& options) {
  const std::string dir = testing::TempDir() + "tessera_fingerprint_test";
  EXPECT_TRUE(WriteRandomCheckpoint(kConfig, dir, options).ok());
  const auto fingerprint = FingerprintModel(dir);
  std::filesystem::remove_all(dir);
  EXPECT_TRUE(fingerprint.ok()) << fingerprint.status();
  return fingerprint.value_or(ModelFingerprint{});
}

// Vectors, matrices and fused experts (three dimensions) are all sampled.
TEST(ModelFingerprintTest, IsThatOfTheWeightsWhereverTheyLie) {
  for (const bool fused : {false, true}) {
    const ModelFingerprint model = Fingerprint({.fused_experts = fused});
    EXPECT_EQ(model.model_hash, Fingerprint({.fused_experts = fused}).model_hash);
    EXPECT_EQ(model.model_hash, Fingerprint({.num_shards = 3, .fused_experts = fused}).model_hash);
    const ModelFingerprint other = Fingerprint({.seed = 1, .fused_experts = fused});
    EXPECT_EQ(model.config_hash, other.config_hash);
    EXPECT_NE(model.model_hash, other.model_hash);
  }
}

}  // namespace
}  // namespace tessera
