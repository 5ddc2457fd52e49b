// The weights of one rank, prepared by its backend.
#ifndef TESSERA_ENGINE_MODEL_WEIGHTS_H_
#define TESSERA_ENGINE_MODEL_WEIGHTS_H_

#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/checkpoint/checkpoint.h"
#include "engine/load_progress.h"
#include "engine/model/model_config.h"
#include "engine/model/shard.h"
#include "engine/quantization/stored_module.h"
#include "kernels/ops.h"

namespace tessera {

// A small fp32 vector on the device (norm weights, biases).
struct DeviceVector {
  DeviceBuffer buffer;
  ConstTensorView view;  // [n] f32; empty when the model has none
};

struct DenseMlpWeights {
  std::unique_ptr<Weight> gate_up;  // [2 F, H]: gate rows, then up rows
  std::unique_ptr<Weight> down;     // [H, F]
};

// What an expert consists of.
enum class ExpertPart : uint8_t { kGateUp, kDown };

// One matrix of every expert slot of a layer. Slots beyond the experts that were loaded are empty
// until an expert moves in; no row ever reaches an empty one.
struct ExpertSlots {
  std::vector<std::unique_ptr<Weight>> weights;
  std::unique_ptr<ExpertTable> table;  // of the same weights, for GroupedGemm

  // Puts a weight into a slot, in queue order.
  void Set(int32_t slot, std::unique_ptr<Weight> weight);
};

struct MoeWeights {
  std::unique_ptr<Weight> router;  // [all experts, H]
  ExpertSlots gate_up;             // per slot [2 I, H]
  ExpertSlots down;                // per slot [H, I]

  ExpertSlots& Slots(ExpertPart part) { return part == ExpertPart::kDown ? down : gate_up; }
};

struct LayerWeights {
  DeviceVector input_norm;      // [H]
  std::unique_ptr<Weight> qkv;  // [(Nq + 2 Nk) D, H]
  DeviceVector qkv_bias;        // optional
  DeviceVector q_norm;          // [D]
  DeviceVector k_norm;          // [D]
  std::unique_ptr<Weight> o;    // [H, Nq D]
  DeviceVector o_bias;          // optional; only on tensor-parallel rank 0, so it is added once
  DeviceVector post_attention_norm;  // [H]
  DenseMlpWeights mlp;               // dense layers
  MoeWeights moe;                    // MoE layers
};

struct ModelWeights {
  std::unique_ptr<Weight> embedding;  // [vocab_rows, H]
  std::vector<LayerWeights> layers;
  DeviceVector final_norm;          // [H]
  std::unique_ptr<Weight> lm_head;  // null when tied: the embedding serves

  const Weight& output_head() const { return lm_head ? *lm_head : *embedding; }
  int64_t bytes = 0;  // device memory of all of the above
};

// Reads the rank's slices only, as many weights at a time as the backend prepares
// (Ops::max_preparing_threads), the largest first; file pages are released once packed. So the most
// memory held at a time is the weights and the stored form of that many matrices of a layer. The
// checkpoint must have passed VerifyCheckpoint. May run concurrently for several ranks of one
// checkpoint, each with its own Ops. `progress` is told the share of the rank's bytes, on the
// calling thread.
absl::StatusOr<ModelWeights> LoadWeights(const ModelConfig& config, const ModelShard& shard,
                                         DType dtype, Checkpoint& checkpoint, Ops& ops,
                                         const LoadProgress& progress);

// A rectangle of a matrix as the checkpoint stores it; valid while it is open.
struct StoredPart {
  HostMatrix matrix;    // plain ones: where they are mapped
  StoredTensor tensor;  // plain ones
  StoredModule module;  // quantised ones
  MatrixSlice slice;    // of it

  bool quantized() const { return module.scheme.has_value(); }
};

// What goes into PrepareWeight beside the parts.
struct PartsOptions {
  DType dtype = DType::kBF16;
  int64_t pad_rows = 0;
  bool background = false;
};
// Stacks parts into a weight and drops their file pages. Quantised parts are written out in memory
// first, in the type that the backend keeps; they are checked on the way.
absl::StatusOr<std::unique_ptr<Weight>> PrepareParts(const std::vector<StoredPart>& parts,
                                                     const PartsOptions& options, Ops& ops);

struct ExpertPartName {
  int32_t layer = 0;
  int32_t expert = 0;
  ExpertPart part = ExpertPart::kGateUp;
};
// This rank's slices of one part of one expert, to be stacked. Touches no page. Any thread.
absl::StatusOr<std::vector<StoredPart>> FindExpertPart(const ModelConfig& config,
                                                       const ModelShard& shard,
                                                       Checkpoint& checkpoint,
                                                       const ExpertPartName& name);

}  // namespace tessera

#endif  // TESSERA_ENGINE_MODEL_WEIGHTS_H_
