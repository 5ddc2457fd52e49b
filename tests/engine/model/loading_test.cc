// What loading costs: the most memory it holds at a time, and the bytes that each rank reads.
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <memory>
#include <optional>
#include <ostream>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "engine/model/checkpoint_check.h"
#include "engine/model/weights.h"
#include "parallel/topology.h"
#include "tests/support/checkpoint_writer.h"

namespace tessera {
namespace {

struct Shape {
  int vocab = 16384;
  int hidden = 1024;
  int layers = 6;
  int experts = 0;   // 0: dense layers
  int width = 3072;  // of a dense layer, or of one expert
};

std::string Config(const Shape& shape) {
  const bool moe = shape.experts > 0;
  return absl::StrCat(
      R"({"architectures": [")", moe ? "Qwen3MoeForCausalLM" : "Qwen3ForCausalLM",
      R"("], "model_type": ")", moe ? "qwen3_moe" : "qwen3", R"(", "vocab_size": )", shape.vocab,
      R"(, "hidden_size": )", shape.hidden, R"(, "intermediate_size": )", shape.width,
      R"(, "num_hidden_layers": )", shape.layers,
      R"(, "num_attention_heads": 16, "num_key_value_heads": 4, "head_dim": 128,
         "hidden_act": "silu", "rms_norm_eps": 1e-06, "max_position_embeddings": 4096,
         "rope_theta": 10000.0, "attention_bias": false, "tie_word_embeddings": false,
         "torch_dtype": "bfloat16")",
      moe ? absl::StrCat(R"(, "num_experts": )", shape.experts, R"(, "num_experts_per_tok": 4,
         "moe_intermediate_size": )",
                         shape.width, R"(, "norm_topk_prob": true,
         "decoder_sparse_step": 1, "mlp_only_layers": [])")
          : "",
      "}");
}

// A model folder with random weights, removed at the end.
class Model {
 public:
  Model(const std::string& name, const Shape& shape, const CheckpointWriterOptions& options)
      : path_(testing::TempDir() + "tessera_loading_" + name) {
    const absl::Status written = WriteRandomCheckpoint(Config(shape), path_, options);
    EXPECT_TRUE(written.ok()) << written;
  }
  ~Model() { std::filesystem::remove_all(path_); }
  Model(const Model&) = delete;
  Model& operator=(const Model&) = delete;

  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

// Holds its weights, so that ranks that load at the same time are in memory together.
struct Loaded {
  absl::Status status;
  std::unique_ptr<Ops> ops;
  std::optional<ModelWeights> weights;
  int64_t weight_bytes = 0;
  int64_t bytes_read = 0;  // of the checkpoint so far, by all ranks that share it
};

Loaded LoadRank(const ModelConfig& config, const LayoutRequest& layout, int rank,
                Checkpoint& checkpoint, DType dtype) {
  auto ops = CreateOps({.backend = "cpu", .num_threads = 1});
  if (!ops.ok()) return {.status = ops.status()};
  const ModelShard shard = MakeShard(config, *Topology::Create(layout, rank));
  auto weights = LoadWeights(config, shard, dtype, checkpoint, **ops, nullptr);
  if (!weights.ok()) return {.status = weights.status()};
  const int64_t bytes = weights->bytes;
  return {.status = absl::OkStatus(),
          .ops = *std::move(ops),
          .weights = *std::move(weights),
          .weight_bytes = bytes,
          .bytes_read = checkpoint.bytes_read()};
}

// --- memory ---

struct Peak {
  int64_t resident = 0;  // bytes, the most at any time
  int64_t weights = 0;   // bytes that the ranks hold in the end
};

int64_t PeakResidentBytes() {
  std::ifstream status("/proc/self/status");
  std::string word;
  int64_t kilobytes = 0;
  while (status >> word) {
    if (word == "VmHWM:" && status >> kilobytes) return kilobytes * 1024;
  }
  return 0;
}

// All ranks of a tensor-parallel group at once, in this process.
Peak LoadAll(const std::string& path, DType dtype, int ranks) {
  const auto config = LoadModelConfig(path);
  auto checkpoint = Checkpoint::Open(path);
  if (!config.ok() || !checkpoint.ok()) return {};
  std::vector<Loaded> loaded(ranks);
  std::vector<std::thread> threads;
  for (int rank = 0; rank < ranks; ++rank) {
    threads.emplace_back([&, rank] {
      loaded[rank] = LoadRank(*config, {.tensor_parallel = ranks}, rank, **checkpoint, dtype);
    });
  }
  for (std::thread& thread : threads) thread.join();
  Peak peak{.resident = PeakResidentBytes(), .weights = 0};
  for (const Loaded& rank : loaded) {
    if (!rank.status.ok()) return {};
    peak.weights += rank.weight_bytes;
  }
  return peak;
}

// In a process of its own, whose peak is no one else's.
Peak LoadInChild(const std::string& path, DType dtype, int ranks) {
  int ends[2];
  EXPECT_EQ(pipe(ends), 0);
  const pid_t child = fork();
  if (child == 0) {
    const Peak peak = LoadAll(path, dtype, ranks);
    const bool written = write(ends[1], &peak, sizeof(peak)) == sizeof(peak);
    _exit(written ? 0 : 1);
  }
  close(ends[1]);
  Peak peak;
  EXPECT_EQ(read(ends[0], &peak, sizeof(peak)), static_cast<ssize_t>(sizeof(peak)));
  close(ends[0]);
  int status = 0;
  EXPECT_EQ(waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
  return peak;
}

struct MemoryCase {
  std::string name;
  Shape shape;
  CheckpointWriterOptions options;
  DType dtype = DType::kBF16;
  int ranks = 1;

  friend std::ostream& operator<<(std::ostream& out, const MemoryCase& c) { return out << c.name; }
};

class LoadingMemory : public testing::TestWithParam<MemoryCase> {};

// File pages that were packed must not stay; nothing is held twice.
TEST_P(LoadingMemory, PeakIsAtMostAFifthAboveTheWeights) {
  const MemoryCase& param = GetParam();
  const Model tiny("tiny", {.vocab = 64, .hidden = 64, .layers = 1, .width = 64}, {});
  const Peak base = LoadInChild(tiny.path(), param.dtype, param.ranks);
  ASSERT_GT(base.weights, 0);
  const Model model(param.name, param.shape, param.options);
  const Peak peak = LoadInChild(model.path(), param.dtype, param.ranks);
  ASSERT_GT(peak.weights, int64_t{200} << 20) << "too small to tell";
  const int64_t resident = peak.resident - (base.resident - base.weights);
  const double ratio = static_cast<double>(resident) / static_cast<double>(peak.weights);
  RecordProperty("ratio", std::to_string(ratio));
  EXPECT_GE(ratio, 1.0) << "the weights themselves were not counted";
  EXPECT_LE(ratio, 1.2) << resident << " bytes for " << peak.weights << " of weights";
}

const Shape kDense;
const Shape kMoe{.layers = 4, .experts = 32, .width = 384};

INSTANTIATE_TEST_SUITE_P(
    Models, LoadingMemory,
    testing::Values(
        MemoryCase{.name = "dense", .shape = kDense, .options = {}},
        MemoryCase{.name = "float32_file",
                   .shape = kDense,
                   .options = {.dtype = DType::kF32, .num_shards = 3}},
        MemoryCase{.name = "float32_model", .shape = kDense, .options = {}, .dtype = DType::kF32},
        MemoryCase{.name = "experts", .shape = kMoe, .options = {}},
        MemoryCase{.name = "fused_experts", .shape = kMoe, .options = {.fused_experts = true}},
        MemoryCase{.name = "two_ranks", .shape = kDense, .options = {}, .ranks = 2}),
    [](const auto& test_case) { return test_case.param.name; });

// --- bytes ---

// A rank reads one of so many equal slices of the tensor.
int SlicesOf(std::string_view name, const LayoutRequest& layout, int kv_heads) {
  const auto has = [&](const char* part) { return name.find(part) != std::string_view::npos; };
  if (has("norm.weight") || has("mlp.gate.weight")) return 1;
  if (has("k_proj") || has("v_proj")) return std::min(layout.tensor_parallel, kv_heads);
  if (has(".experts.")) return layout.tensor_parallel * layout.data_parallel;
  return layout.tensor_parallel;
}

struct BytesCase {
  std::string name;
  Shape shape;
  LayoutRequest layout;

  friend std::ostream& operator<<(std::ostream& out, const BytesCase& c) { return out << c.name; }
};

class LoadingBytes : public testing::TestWithParam<BytesCase> {};

// Everything divides evenly here, so each rank reads exactly its slices and what every rank needs.
TEST_P(LoadingBytes, EachRankReadsItsSlicesOnly) {
  const BytesCase& param = GetParam();
  const LayoutRequest& layout = param.layout;
  for (const bool fused : {false, true}) {
    if (fused && param.shape.experts == 0) continue;
    const Model model(param.name, param.shape, {.num_shards = 2, .fused_experts = fused});
    const auto config = LoadModelConfig(model.path());
    ASSERT_TRUE(config.ok()) << config.status();
    ASSERT_TRUE(ValidateLayout(layout, LayoutShape(*config)).ok());
    const auto stored = Checkpoint::Open(model.path());
    ASSERT_TRUE(stored.ok()) << stored.status();
    int64_t expected = 0;
    int64_t whole = 0;  // of what every rank reads
    for (const std::string_view name : (*stored)->names()) {
      const int64_t bytes = (*stored)->Find(name).entry->num_bytes;
      const int slices = SlicesOf(name, layout, config->num_key_value_heads);
      ASSERT_EQ(bytes % slices, 0) << name;
      expected += bytes / slices;
      if (slices == 1) whole += bytes;
    }
    const int64_t file = (*stored)->total_bytes();
    const int ranks = layout.tensor_parallel * layout.data_parallel;
    int64_t all = 0;
    for (int rank = 0; rank < ranks; ++rank) {
      const auto checkpoint = Checkpoint::Open(model.path());
      const Loaded loaded = LoadRank(*config, layout, rank, **checkpoint, DType::kBF16);
      ASSERT_TRUE(loaded.status.ok()) << loaded.status;
      EXPECT_EQ(loaded.bytes_read, expected) << "rank " << rank << " of " << ranks;
      all += loaded.bytes_read;
    }
    EXPECT_GE(all, file) << "no rank reads some of the file";
    if (layout.data_parallel == 1 && layout.tensor_parallel <= config->num_key_value_heads) {
      EXPECT_LE(expected, file / ranks + whole) << "of " << file << " bytes";
    }
  }
}

const Shape kSmallDense{.vocab = 512, .hidden = 256, .layers = 2, .width = 512};
const Shape kSmallMoe{.vocab = 512, .hidden = 256, .layers = 2, .experts = 16, .width = 128};

INSTANTIATE_TEST_SUITE_P(
    Layouts, LoadingBytes,
    testing::Values(
        BytesCase{"dense_tp1", kSmallDense, {.tensor_parallel = 1}},
        BytesCase{"dense_tp2", kSmallDense, {.tensor_parallel = 2}},
        BytesCase{"dense_tp4", kSmallDense, {.tensor_parallel = 4}},
        BytesCase{"dense_tp8", kSmallDense, {.tensor_parallel = 8}},  // KV heads are replicated
        BytesCase{"moe_tp1", kSmallMoe, {.tensor_parallel = 1}},
        BytesCase{"moe_tp2", kSmallMoe, {.tensor_parallel = 2}},
        BytesCase{"moe_tp4", kSmallMoe, {.tensor_parallel = 4}},
        BytesCase{"moe_tp8", kSmallMoe, {.tensor_parallel = 8}},
        BytesCase{"moe_tp4_ep", kSmallMoe, {.tensor_parallel = 4, .expert_parallel = true}},
        BytesCase{"moe_tp8_ep", kSmallMoe, {.tensor_parallel = 8, .expert_parallel = true}},
        BytesCase{"moe_tp2_dp2", kSmallMoe, {.tensor_parallel = 2, .data_parallel = 2}},
        BytesCase{"moe_tp2_dp4_ep",
                  kSmallMoe,
                  {.tensor_parallel = 2, .data_parallel = 4, .expert_parallel = true}},
        BytesCase{"moe_dp8_ep", kSmallMoe, {.data_parallel = 8, .expert_parallel = true}}),
    [](const auto& test_case) { return test_case.param.name; });

}  // namespace
}  // namespace tessera
