// Bytes that one rank needs, from config.json alone.
#ifndef TESSERA_ENGINE_PLANNING_MEMORY_MODEL_H_
#define TESSERA_ENGINE_PLANNING_MEMORY_MODEL_H_

#include <cstdint>
#include <string_view>

#include "absl/status/statusor.h"
#include "engine/model/model_config.h"
#include "engine/model/shard.h"
#include "kernels/core/dtype.h"

namespace tessera {

// How the seven projections of a layer (q, k, v, o, gate, up, down) are stored. Embedding, lm_head
// and router stay bfloat16, norms and biases float32, the KV cache bfloat16. Scales are bfloat16:
//   kFp8   1 byte per weight and a scale per block of 128 x 128
//   kInt8  1 byte per weight and a scale per output channel
//   kInt4  half a byte per weight and a scale per 128 weights of an output channel
// A slice that does not end on a block or group boundary keeps a scale for its last, partial one.
enum class WeightFormat : uint8_t { kBFloat16, kFp8, kInt8, kInt4 };

// "bfloat16", "fp8", "int8", "int4". Parsing is INVALID_ARGUMENT for anything else.
std::string_view WeightFormatName(WeightFormat format);
absl::StatusOr<WeightFormat> ParseWeightFormat(std::string_view name);

struct MatrixSize {
  int64_t parameters = 0;
  int64_t bytes = 0;
  MatrixSize& operator+=(const MatrixSize& other);
};

// [rows, cols] of a projection.
MatrixSize ProjectionSize(int64_t rows, int64_t cols, WeightFormat format);

// What one rank holds. Sizes are those of LoadWeights (engine/model/weights.h); a backend may pad
// matrices to its tiles on top (the CPU: rows to 16).
struct RankSlices {
  MatrixSize attention;     // q, k, v, o of one layer; KV heads replicated when TP > KV heads
  MatrixSize dense_mlp;     // of one dense layer
  MatrixSize router;        // of one MoE layer, whole on every rank
  MatrixSize expert;        // one expert, or this rank's columns of it
  int64_t num_experts = 0;  // held here, per MoE layer: one in each of the shard's slots
  MatrixSize vocab;         // embedding or lm_head: a slice, the last one padded
  int64_t layer_vector_bytes = 0;  // norms and biases of one layer
  int64_t final_norm_bytes = 0;
};
RankSlices SliceSizes(const ModelConfig& config, const ModelShard& shard, WeightFormat format);

int64_t NumMoeLayers(const ModelConfig& config);

// All layers, the final norm, embedding and lm_head (one matrix when tied).
int64_t WeightBytes(const ModelConfig& config, const RankSlices& slices);

// K and V of one token over all layers, bfloat16.
int64_t KvBytesPerToken(const ModelConfig& config, const ModelShard& shard);

struct BufferSizes {
  int64_t max_tokens = 0;            // tokens of one step and group
  int64_t max_positions = 0;         // rows of the RoPE table
  int64_t max_num_seqs = 0;          // slots of the penalty table, rows of logits (64 at least)
  DType activations = DType::kBF16;  // Ops::ActivationDType of the backend; cpu: always kF32
};
// Activations, RoPE table and logits as Qwen3Model, MoeBlock and RankWorker allocate them.
int64_t BufferBytes(const ModelConfig& config, const ModelShard& shard, const BufferSizes& sizes);

}  // namespace tessera

#endif  // TESSERA_ENGINE_PLANNING_MEMORY_MODEL_H_
