#include "engine/executor/weight_room.h"

#include <string>

#include "absl/strings/str_cat.h"
#include "engine/model/shard.h"
#include "kernels/core/status_macros.h"

namespace tessera {
namespace {

// Elements of the matrices of the layout's first rank; without norms, biases and padding.
int64_t MatrixElements(const ModelConfig& config, const LayoutRequest& layout) {
  const auto topology = Topology::Create(layout, 0);
  TESSERA_CHECK(topology.ok());
  const ModelShard shard = MakeShard(config, *topology, 0);
  const int64_t hidden = config.hidden_size;
  const int64_t heads = 2 * int64_t{shard.num_q_heads} + 2 * int64_t{shard.num_kv_heads};
  int64_t elements = shard.vocab_rows * hidden * (config.tie_word_embeddings ? 1 : 2);
  for (int32_t layer = 0; layer < config.num_hidden_layers; ++layer) {
    elements += heads * config.head_dim * hidden;
    if (config.layer_is_moe[layer]) {
      elements += int64_t{config.num_experts} * hidden +
                  int64_t{shard.num_experts} * 3 * shard.moe_ffn_size * hidden;
    } else {
      elements += int64_t{3} * shard.ffn_size * hidden;
    }
  }
  return elements;
}

int64_t Needed(const ModelConfig& config, const LayoutRequest& layout, DType dtype) {
  return MatrixElements(config, layout) * static_cast<int64_t>(SizeOf(dtype));
}

// A change that makes the weights fit; empty: there is none here.
std::string WhatWouldFit(const ModelConfig& config, const GroupSettings& settings, int64_t free) {
  if (settings.dtype == DType::kF32 && Needed(config, settings.layout, DType::kBF16) <= free) {
    return "--dtype bfloat16 would fit";
  }
  constexpr int32_t kMostRanks = 64;
  LayoutRequest layout = settings.layout;
  for (layout.tensor_parallel *= 2; layout.tensor_parallel <= kMostRanks;
       layout.tensor_parallel *= 2) {
    if (!ValidateLayout(layout, LayoutShape(config)).ok()) continue;
    if (Needed(config, layout, settings.dtype) > free) continue;
    return absl::StrCat("--tensor-parallel-size ", layout.tensor_parallel, " would fit");
  }
  return "";
}

}  // namespace

absl::Status CheckWeightRoom(const ModelConfig& config, const GroupSettings& settings,
                             const Device& device) {
  const std::optional<DeviceMemory> memory = device.memory();
  if (!memory.has_value()) return absl::OkStatus();
  const int64_t needed = Needed(config, settings.layout, settings.dtype);
  if (needed <= memory->free) return absl::OkStatus();
  const std::string remedy = WhatWouldFit(config, settings, memory->free);
  return absl::ResourceExhaustedError(absl::StrCat(
      "the weights of a rank need at least ", needed, " bytes, ", memory->device, " has ",
      memory->free, " of ", memory->total,
      " bytes free: ", remedy.empty() ? "free memory or serve a smaller model" : remedy));
}

}  // namespace tessera
