#include "engine/model/expert_loader.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/core/status_macros.h"

namespace tessera {

absl::Status CheckpointExpertLoader::Prepare(int32_t layer, int32_t expert) {
  for (const ExpertPart part : {ExpertPart::kGateUp, ExpertPart::kDown}) {
    RETURN_IF_ERROR(context_.preparation->Run(
        [&] { return PreparePart({.layer = layer, .expert = expert, .part = part}); }));
  }
  return absl::OkStatus();
}

absl::Status CheckpointExpertLoader::PreparePart(const ExpertPartName& name) {
  ASSIGN_OR_RETURN(const std::vector<StoredPart> parts,
                   FindExpertPart(context_.config, context_.shard, *context_.checkpoint, name));
  ASSIGN_OR_RETURN(
      prepared_[Part(name.layer, name.expert, name.part)],
      PrepareParts(parts, {.dtype = context_.dtype, .background = true}, context_.ops));
  return absl::OkStatus();
}

absl::StatusOr<int64_t> CheckpointExpertLoader::Load(const PartPlace& place) {
  auto found = prepared_.extract(Part(place.layer, place.expert, place.part));
  if (found.empty() || found.mapped() == nullptr) {
    return absl::InternalError(absl::StrCat("expert ", place.expert, " of layer ", place.layer,
                                            " is loaded before it was prepared"));
  }
  const auto bytes = static_cast<int64_t>(found.mapped()->bytes());
  context_.weights.layers[place.layer]
      .moe.Slots(place.part)
      .Set(place.local_slot, std::move(found.mapped()));
  return bytes;
}

}  // namespace tessera
