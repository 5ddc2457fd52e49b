// A plain checkpoint's weights as those of a quantised one.
#ifndef TESSERA_ENGINE_MODEL_CHECKPOINT_QUANTIZER_H_
#define TESSERA_ENGINE_MODEL_CHECKPOINT_QUANTIZER_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/checkpoint/checkpoint.h"
#include "engine/load_progress.h"
#include "engine/model/model_config.h"
#include "engine/quantization/quantize.h"

namespace tessera {

struct CheckpointQuantizerOptions {
  CodeFormat format = CodeFormat::kInt8;
  int threads = 1;
};

// Writes the file `path`, one safetensors file in the layout of compressed-tensors: projections of
// attention, MLPs and experts as codes (engine/quantization/quantize.h), everything else as it is
// stored. Experts of the fused layout come out one by one. Returns the modules that stay plain: the
// router, lm_head, and matrices whose inputs are no multiple of the group. Holds one matrix at a
// time. The checkpoint must have passed VerifyCheckpoint; one that is quantised already is
// INVALID_ARGUMENT, and so is a value that is NaN or infinite. After an error there is no file.
absl::StatusOr<std::vector<std::string>> WriteQuantizedCheckpoint(
    const ModelConfig& config, const Checkpoint& checkpoint,
    const CheckpointQuantizerOptions& options, const std::string& path,
    const LoadProgress& progress);

}  // namespace tessera

#endif  // TESSERA_ENGINE_MODEL_CHECKPOINT_QUANTIZER_H_
