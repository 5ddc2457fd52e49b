#include "engine/planning/memory_model.h"

#include <algorithm>
#include <array>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "parallel/experts/dispatcher.h"

namespace tessera {
namespace {

constexpr int64_t kBF16Bytes = 2;
constexpr int64_t kF32Bytes = 4;
constexpr int64_t kBlock = 128;      // weights that share a scale, per direction
constexpr int64_t kLogitsRows = 64;  // rows of logits in flight: Qwen3Model::kMaxLogitsRows

constexpr std::array<std::string_view, 4> kFormatNames = {"bfloat16", "fp8", "int8", "int4"};

int64_t CeilDiv(int64_t value, int64_t divisor) { return (value + divisor - 1) / divisor; }

int64_t ActivationBytes(const BufferSizes& sizes) {
  return static_cast<int64_t>(SizeOf(sizes.activations));
}

MatrixSize PlainMatrix(int64_t rows, int64_t cols) {
  return {.parameters = rows * cols, .bytes = rows * cols * kBF16Bytes};
}

// gate and up [width, hidden], down [hidden, width].
MatrixSize FeedForward(int64_t hidden, int64_t width, WeightFormat format) {
  MatrixSize size = ProjectionSize(width, hidden, format);
  size += ProjectionSize(width, hidden, format);
  size += ProjectionSize(hidden, width, format);
  return size;
}

// What exchanging rows between expert-parallel ranks takes. Counted whether or not they will be
// exchanged: --moe-comm=auto tries both ways before it keeps one.
int64_t DispatchBufferBytes(const ModelConfig& config, const ModelShard& shard,
                            const BufferSizes& sizes, int64_t owned_tokens) {
  return ExpertDispatcher::BufferBytes({.max_tokens = owned_tokens,
                                        .hidden = config.hidden_size,
                                        .dtype = sizes.activations,
                                        .top_k = config.num_experts_per_tok,
                                        .placement = {.num_experts = config.num_experts,
                                                      .num_ranks = shard.tp_size * shard.dp_size,
                                                      .slots_per_rank = shard.expert_slots},
                                        .combine = CombineMode::kExact,
                                        .exchange = ExchangeMode::kCounted});
}

int64_t MoeBufferBytes(const ModelConfig& config, const ModelShard& shard,
                       const BufferSizes& sizes) {
  const int64_t act_bytes = ActivationBytes(sizes);
  const int64_t hidden = config.hidden_size;
  const int64_t ranks = int64_t{shard.tp_size} * shard.dp_size;
  const int64_t part = CeilDiv(sizes.max_tokens, shard.tp_size);
  const int64_t tokens = part * ranks;  // every rank sees those of all ranks
  const int64_t k = config.num_experts_per_tok;
  // Summed outputs; with several ranks results of the own rows, with several groups all rows.
  const int64_t hidden_rows = tokens + (ranks > 1 ? part : 0) + (shard.dp_size > 1 ? tokens : 0);
  // A token chooses an expert once: it has no more rows here than this rank holds experts.
  const int64_t rows = tokens * std::min<int64_t>(k, shard.expert_slots);
  const int64_t choice_arrays = 3;  // expert ids and weights, positions
  int64_t bytes = part * shard.tp_size * config.num_experts * kF32Bytes +
                  (tokens * k * choice_arrays + rows) * kF32Bytes +
                  (shard.expert_slots + 1) * kF32Bytes + hidden_rows * hidden * act_bytes;
  if (shard.expert_parallel && ranks > 1) {
    bytes += DispatchBufferBytes(config, shard, sizes, part);
  }
  return bytes + rows * (3 * int64_t{shard.moe_ffn_size} + hidden) * act_bytes;
}

}  // namespace

std::string_view WeightFormatName(WeightFormat format) {
  return kFormatNames[static_cast<size_t>(format)];
}

absl::StatusOr<WeightFormat> ParseWeightFormat(std::string_view name) {
  const auto* const found = std::find(kFormatNames.begin(), kFormatNames.end(), name);
  if (found == kFormatNames.end()) {
    return absl::InvalidArgumentError(absl::StrCat(
        "\"", std::string(name), "\" is no weight format; use bfloat16, fp8, int8 or int4"));
  }
  return static_cast<WeightFormat>(found - kFormatNames.begin());
}

MatrixSize& MatrixSize::operator+=(const MatrixSize& other) {
  parameters += other.parameters;
  bytes += other.bytes;
  return *this;
}

MatrixSize ProjectionSize(int64_t rows, int64_t cols, WeightFormat format) {
  const int64_t parameters = rows * cols;
  switch (format) {
    case WeightFormat::kBFloat16:
      break;
    case WeightFormat::kFp8: {
      const int64_t blocks = CeilDiv(rows, kBlock) * CeilDiv(cols, kBlock);
      return {.parameters = parameters, .bytes = parameters + blocks * kBF16Bytes};
    }
    case WeightFormat::kInt8:
      return {.parameters = parameters, .bytes = parameters + rows * kBF16Bytes};
    case WeightFormat::kInt4: {
      const int64_t row_bytes = CeilDiv(cols, 2) + CeilDiv(cols, kBlock) * kBF16Bytes;
      return {.parameters = parameters, .bytes = rows * row_bytes};
    }
  }
  return PlainMatrix(rows, cols);
}

RankSlices SliceSizes(const ModelConfig& config, const ModelShard& shard, WeightFormat format) {
  const int64_t hidden = config.hidden_size;
  const int64_t head_dim = config.head_dim;
  const int64_t q_width = shard.num_q_heads * head_dim;
  const int64_t kv_width = shard.num_kv_heads * head_dim;
  RankSlices slices;
  slices.attention = ProjectionSize(q_width, hidden, format);
  slices.attention += ProjectionSize(kv_width, hidden, format);
  slices.attention += ProjectionSize(kv_width, hidden, format);
  slices.attention += ProjectionSize(hidden, q_width, format);
  slices.dense_mlp = FeedForward(hidden, shard.ffn_size, format);
  if (config.has_moe_layers()) {
    slices.router = PlainMatrix(config.num_experts, hidden);
    slices.expert = FeedForward(hidden, shard.moe_ffn_size, format);
    slices.num_experts = shard.expert_slots;
  }
  slices.vocab = PlainMatrix(shard.vocab_rows, hidden);
  int64_t vector_elements = 2 * hidden + 2 * head_dim;
  if (config.attention_bias) {
    vector_elements += q_width + 2 * kv_width + (shard.tp_rank == 0 ? hidden : 0);
  }
  slices.layer_vector_bytes = vector_elements * kF32Bytes;
  slices.final_norm_bytes = hidden * kF32Bytes;
  return slices;
}

int64_t NumMoeLayers(const ModelConfig& config) {
  return std::count(config.layer_is_moe.begin(), config.layer_is_moe.end(), true);
}

int64_t WeightBytes(const ModelConfig& config, const RankSlices& slices) {
  const int64_t layers = config.num_hidden_layers;
  const int64_t moe_layers = NumMoeLayers(config);
  const int64_t vocab_matrices = config.tie_word_embeddings ? 1 : 2;
  return layers * (slices.attention.bytes + slices.layer_vector_bytes) +
         (layers - moe_layers) * slices.dense_mlp.bytes +
         moe_layers * (slices.router.bytes + slices.num_experts * slices.expert.bytes) +
         vocab_matrices * slices.vocab.bytes + slices.final_norm_bytes;
}

int64_t KvBytesPerToken(const ModelConfig& config, const ModelShard& shard) {
  return 2 * int64_t{shard.num_kv_heads} * config.head_dim * config.num_hidden_layers * kBF16Bytes;
}

int64_t BufferBytes(const ModelConfig& config, const ModelShard& shard, const BufferSizes& sizes) {
  const int64_t act_bytes = ActivationBytes(sizes);
  const int64_t hidden = config.hidden_size;
  const int64_t head_dim = config.head_dim;
  const int64_t q_width = shard.num_q_heads * head_dim;
  const int64_t kv_width = shard.num_kv_heads * head_dim;
  const int64_t moe_layers = NumMoeLayers(config);
  // Residual stream, its norm, a block's output: in equal parts for all ranks.
  const int64_t part = CeilDiv(sizes.max_tokens, shard.tp_size);
  const int64_t hidden_rows = 3 * part * shard.tp_size + (shard.tp_size > 1 ? part : 0);
  // Queries, keys, values; attention outputs.
  int64_t token_elements = 2 * q_width + 2 * kv_width;
  if (moe_layers < config.num_hidden_layers) token_elements += 3 * int64_t{shard.ffn_size};
  int64_t bytes = sizes.max_positions * head_dim * kF32Bytes + hidden_rows * hidden * act_bytes +
                  sizes.max_tokens * token_elements * act_bytes + kLogitsRows * hidden * act_bytes +
                  kLogitsRows * config.vocab_size * kF32Bytes;
  if (shard.tp_size > 1) {  // this rank's logits and those of all
    bytes += kLogitsRows * shard.vocab_rows * (1 + shard.tp_size) * kF32Bytes;
  }
  if (moe_layers > 0) bytes += MoeBufferBytes(config, shard, sizes);
  return bytes;
}

}  // namespace tessera
