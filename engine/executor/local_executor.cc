#include "engine/executor/local_executor.h"

#include <utility>

#include "kernels/core/status_macros.h"

namespace tessera {
namespace {

class LocalExecutor final : public Executor {
 public:
  LocalExecutor(RankGroupOptions options, const ModelConfig& config)
      : num_groups_(options.settings.layout.data_parallel), ranks_(std::move(options), config) {}

  absl::Status Load(const LoadProgress& progress) { return ranks_.Load(progress); }

  MemoryReport memory() const override { return ranks_.memory(); }
  GroupFacts facts() const override { return ranks_.facts(); }
  int32_t num_groups() const override { return num_groups_; }
  int32_t max_steps_under_way() const override { return ranks_.max_steps_under_way(); }
  absl::Status AllocateKv(int32_t num_blocks) override { return ranks_.AllocateKv(num_blocks); }
  absl::Status AllocateTrialKv(int32_t num_blocks) override {
    return ranks_.AllocateTrialKv(num_blocks);
  }
  void Submit(StepPlan plan) override {
    ranks_.Submit(std::make_shared<const StepPlan>(std::move(plan)));
  }
  absl::StatusOr<StepResult> Wait() override {
    ASSIGN_OR_RETURN(NodeStepResult result, ranks_.Wait());
    return StepResult{.step_id = result.step_id,
                      .groups = std::move(result.groups),
                      .ranks = std::move(result.ranks),
                      .expert_loads = std::move(result.expert_loads)};
  }
  void Abort(absl::Status reason) override { ranks_.Abort(reason); }
  absl::Status Shutdown(absl::Time deadline) override { return ranks_.Shutdown(deadline); }

 private:
  const int32_t num_groups_;
  RankGroup ranks_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Executor>> CreateLocalExecutor(const ModelOptions& options,
                                                              const ExecutorLimits& limits,
                                                              const ModelConfig& config,
                                                              const LoadProgress& progress) {
  ASSIGN_OR_RETURN(GroupSettings settings, MakeGroupSettings(options, limits, 1, config));
  auto executor =
      std::make_unique<LocalExecutor>(RankGroupOptions{.settings = std::move(settings),
                                                       .model_dir = options.model_dir,
                                                       .num_threads = options.num_threads,
                                                       .cpu_isa = options.cpu_isa,
                                                       .emulated_gpus = options.emulated_gpus,
                                                       .node = 0,
                                                       .remote = {}},
                                      config);
  RETURN_IF_ERROR(executor->Load(progress));
  return executor;
}

}  // namespace tessera
