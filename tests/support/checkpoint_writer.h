// Checkpoints with random weights: for tests, and for benchmarks of models nobody has to download.
#ifndef TESSERA_TESTS_SUPPORT_CHECKPOINT_WRITER_H_
#define TESSERA_TESTS_SUPPORT_CHECKPOINT_WRITER_H_

#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "kernels/core/dtype.h"

namespace tessera {

struct CheckpointWriterOptions {
  DType dtype = DType::kBF16;  // kBF16, kF16 or kF32; the values are the same in all three
  int32_t num_shards = 1;      // more than one: model-0000i-of-0000n files and an index
  uint64_t seed = 0;
  bool fused_experts = false;  // all experts of a layer in two tensors
  // Routers favour the first so many experts: their rows are eight times as large, so that each is
  // among the first choices of about half the tokens.
  int32_t favoured_experts = 0;
  std::string tokenizer_directory;  // its tokenizer and generation files are copied; "" = none
};

// Writes config.json (as given) and the weights it implies to a folder, which is created. A weight
// depends on the seed, the tensor's name and its place only, so shards and types hold the same
// model. Linear weights are multiples of 2^-12 with standard deviation 0.018, norms lie around 1,
// biases like weights: activations stay finite at any depth. Streams: memory stays below 4 MiB.
absl::Status WriteRandomCheckpoint(std::string_view config_json, const std::string& directory,
                                   const CheckpointWriterOptions& options);

}  // namespace tessera

#endif  // TESSERA_TESTS_SUPPORT_CHECKPOINT_WRITER_H_
