#include "engine/model/expert_slots.h"

#include <cstddef>
#include <utility>

#include "kernels/core/status_macros.h"

namespace tessera {
namespace {

// Reads a byte of every page of the matrix.
void TouchPages(const HostMatrix& matrix) {
  constexpr int64_t kPage = 4096;
  const auto element = static_cast<int64_t>(SizeOf(matrix.dtype));
  for (int64_t row = 0; row < matrix.rows; ++row) {
    const auto* begin =
        static_cast<const std::byte*>(matrix.data) + row * matrix.row_stride * element;
    for (int64_t at = 0; at < matrix.cols * element; at += kPage) {
      static_cast<void>(*static_cast<const volatile std::byte*>(begin + at));
    }
  }
}

}  // namespace

absl::Status CheckpointExpertSlots::Fetch(int32_t layer, int32_t expert) {
  for (const ExpertPart part : {ExpertPart::kGateUp, ExpertPart::kDown}) {
    ASSIGN_OR_RETURN(const StoredExpertPart stored,
                     FindExpertPart(context_.config, context_.shard, *context_.checkpoint,
                                    {.layer = layer, .expert = expert, .part = part}));
    for (const HostMatrix& matrix : stored.matrices) TouchPages(matrix);
  }
  return absl::OkStatus();
}

absl::StatusOr<int64_t> CheckpointExpertSlots::Load(const PartPlace& place) {
  ASSIGN_OR_RETURN(
      const StoredExpertPart stored,
      FindExpertPart(context_.config, context_.shard, *context_.checkpoint,
                     {.layer = place.layer, .expert = place.expert, .part = place.part}));
  ASSIGN_OR_RETURN(std::unique_ptr<Weight> weight,
                   context_.ops.PrepareWeight({.parts = stored.matrices, .dtype = context_.dtype}));
  for (const StoredTensor& tensor : stored.tensors) tensor.Release();
  const auto bytes = static_cast<int64_t>(weight->bytes());
  context_.weights.layers[place.layer].moe.Set(place.part, place.local_slot, std::move(weight));
  return bytes;
}

}  // namespace tessera
