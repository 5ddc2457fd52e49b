// The predicted memory is what a run takes, on backends with float32 and with bfloat16 activations.
#include <unistd.h>

#include <filesystem>
#include <string>

#include "engine/executor/local_executor.h"
#include "engine/planning/memory_model.h"
#include "tests/engine/planning/configs.h"
#include "tests/support/checkpoint_writer.h"

namespace tessera {
namespace {

constexpr double kTolerance = 0.03;
constexpr int32_t kBlockSize = 16;
constexpr int32_t kMaxTokens = 64;
constexpr int32_t kMaxSeqs = 3;
constexpr int32_t kMaxModelLen = 256;
constexpr int64_t kKvTokens = 4096;

void ExpectClose(int64_t predicted, int64_t real, const std::string& what) {
  EXPECT_NEAR(static_cast<double>(predicted), static_cast<double>(real),
              kTolerance * static_cast<double>(real))
      << what;
}

// The CPU backend pads matrices to 16 rows; only very small models notice.
bool FillsPanels(const ModelShard& shard) {
  return 2 * shard.ffn_size % 16 == 0 && 2 * shard.moe_ffn_size % 16 == 0;
}

// Loads the model on every rank of the layout and compares; false when it does not split so.
bool Compare(const std::string& dir, const std::string& backend, const LayoutOptions& layout) {
  const auto config = LoadModelConfig(dir);
  EXPECT_TRUE(config.ok()) << config.status();
  const LayoutRequest request{.tensor_parallel = layout.tensor_parallel,
                              .data_parallel = layout.data_parallel,
                              .expert_parallel = layout.expert_parallel};
  if (!ValidateLayout(request, LayoutShape(*config)).ok()) return false;
  const ModelShard shard = MakeShard(*config, *Topology::Create(request, 0));
  if (!FillsPanels(shard)) return false;
  ModelOptions options;
  options.model_dir = dir;
  options.backend = backend;
  options.dtype = DType::kBF16;
  options.num_threads = 1;
  options.layout = layout;
  const auto executor = CreateLocalExecutor(options,
                                            {.block_size = kBlockSize,
                                             .max_num_batched_tokens = kMaxTokens,
                                             .max_num_seqs = kMaxSeqs,
                                             .max_model_len = kMaxModelLen},
                                            *config, nullptr);
  EXPECT_TRUE(executor.ok()) << executor.status();
  if (!executor.ok()) return true;
  const MemoryReport real = (*executor)->memory();

  const int64_t weights = WeightBytes(*config, SliceSizes(*config, shard, WeightFormat::kBFloat16));
  const int64_t kv = KvBytesPerToken(*config, shard);
  const int64_t buffers =
      BufferBytes(*config, shard,
                  {.max_tokens = kMaxTokens,
                   .max_positions = kMaxModelLen,
                   .max_num_seqs = kMaxSeqs,
                   .activations = backend == "cpu" ? DType::kF32 : DType::kBF16});
  const std::string name =
      dir + " on " + backend + " tp " + std::to_string(layout.tensor_parallel) + " dp " +
      std::to_string(layout.data_parallel) + (layout.expert_parallel ? " ep" : "");
  ExpectClose(weights, real.weight_bytes, name + " weights");
  EXPECT_EQ(kv * kBlockSize, real.kv_block_bytes) << name;
  ExpectClose(buffers, real.buffer_bytes, name + " buffers");
  ExpectClose(weights + buffers + kv * kKvTokens,
              real.weight_bytes + real.buffer_bytes + real.kv_block_bytes * kKvTokens / kBlockSize,
              name + " all");
  return true;
}

const LayoutOptions kLayouts[] = {{1, 1, false, "auto"},    {2, 1, false, "auto"},
                                  {4, 1, false, "auto"},    {2, 1, true, "alltoall"},
                                  {1, 2, false, "auto"},    {2, 2, true, "alltoall"},
                                  {1, 4, true, "alltoall"}, {1, 8, true, "alltoall"}};

int CompareAll(const std::string& dir) {
  int compared = 0;
  for (const LayoutOptions& layout : kLayouts) {
    const bool splits = Compare(dir, "cpu", layout);
    EXPECT_EQ(Compare(dir, "ref", layout), splits);
    compared += splits ? 1 : 0;
  }
  return compared;
}

std::string ReferenceModel(const std::string& name) {
  return std::string(TESSERA_TEST_DATA) + "/reference/models/" + name;
}

TEST(AllocationTest, BundledModel) { EXPECT_EQ(CompareAll(TESSERA_NANO_MODEL), 8); }

TEST(AllocationTest, ReferenceModels) {
  EXPECT_EQ(CompareAll(ReferenceModel("moe")), 7);
  EXPECT_GE(CompareAll(ReferenceModel("dense-bias")), 4);
  EXPECT_GE(CompareAll(ReferenceModel("moe-sparse-step-2")), 4);
}

// About 28 million weights, 56 MB; a vocabulary that no tensor-parallel size divides evenly.
TEST(AllocationTest, LargerModel) {
  const std::string config = R"({
    "architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe", "vocab_size": 8209,
    "hidden_size": 512, "intermediate_size": 1024, "num_hidden_layers": 3,
    "num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 64, "hidden_act": "silu",
    "rms_norm_eps": 1e-06, "max_position_embeddings": 4096, "rope_theta": 10000.0,
    "attention_bias": false, "tie_word_embeddings": false, "num_experts": 16,
    "num_experts_per_tok": 4, "moe_intermediate_size": 224, "norm_topk_prob": true,
    "decoder_sparse_step": 1, "mlp_only_layers": [1], "torch_dtype": "bfloat16"})";
  const std::string dir =
      testing::TempDir() + "tessera_allocation_test_" + std::to_string(getpid());
  ASSERT_TRUE(WriteRandomCheckpoint(config, dir, {.num_shards = 2}).ok());
  EXPECT_EQ(CompareAll(dir), 8);
  std::filesystem::remove_all(dir);
}

}  // namespace
}  // namespace tessera
