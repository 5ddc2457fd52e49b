// The places for experts' weights on one rank, and where the weights come from.
#ifndef TESSERA_ENGINE_MODEL_EXPERT_LOADER_H_
#define TESSERA_ENGINE_MODEL_EXPERT_LOADER_H_

#include <cstdint>
#include <map>
#include <memory>
#include <tuple>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/checkpoint/checkpoint.h"
#include "engine/model/model_config.h"
#include "engine/model/quiet_work.h"
#include "engine/model/shard.h"
#include "engine/model/weights.h"
#include "kernels/ops.h"

namespace tessera {

class ExpertLoader {
 public:
  virtual ~ExpertLoader() = default;

  // `layer`: of the model. Makes the expert ready to be loaded: reads and packs it. Blocks; by one
  // thread at a time, which need not be the rank's.
  virtual absl::Status Prepare(int32_t layer, int32_t expert) = 0;

  struct PartPlace {
    int32_t layer = 0;
    int32_t expert = 0;
    int32_t local_slot = 0;
    ExpertPart part = ExpertPart::kGateUp;
  };
  // Puts one part of a prepared expert into a slot that no step uses. Bytes it takes. Rank's
  // thread, between steps, while nothing is being prepared.
  virtual absl::StatusOr<int64_t> Load(const PartPlace& place) = 0;
  // Forgets what has been prepared and not loaded.
  virtual void Discard() = 0;
};

// Reads every expert from the checkpoint, which every rank has: a move needs no network.
class CheckpointExpertLoader final : public ExpertLoader {
 public:
  struct Context {
    const ModelConfig& config;
    const ModelShard& shard;
    DType dtype = DType::kBF16;
    std::shared_ptr<Checkpoint> checkpoint;
    std::shared_ptr<QuietWork> preparation;
    ModelWeights& weights;  // whose slots are filled
    Ops& ops;
  };
  // What the context refers to must outlive it.
  explicit CheckpointExpertLoader(Context context) : context_(std::move(context)) {}

  absl::Status Prepare(int32_t layer, int32_t expert) override;
  absl::StatusOr<int64_t> Load(const PartPlace& place) override;
  void Discard() override { prepared_.clear(); }

 private:
  using Part = std::tuple<int32_t, int32_t, ExpertPart>;  // layer, expert

  absl::Status PreparePart(const ExpertPartName& name);

  const Context context_;
  std::map<Part, std::unique_ptr<Weight>> prepared_;
};

}  // namespace tessera

#endif  // TESSERA_ENGINE_MODEL_EXPERT_LOADER_H_
