// The ranks of this process: their carriers, their workers, and the steps they have under way.
// The local executor is one such group; with several nodes every node has one.
#ifndef TESSERA_ENGINE_EXECUTOR_RANK_GROUP_H_
#define TESSERA_ENGINE_EXECUTOR_RANK_GROUP_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "engine/executor/executor.h"
#include "engine/executor/group_settings.h"
#include "engine/executor/rank_connector.h"
#include "engine/executor/step_plan_codec.h"
#include "engine/model/model_config.h"
#include "engine/model/weights.h"
#include "engine/options.h"
#include "engine/scheduler/step_plan.h"
#include "parallel/carrier/carrier.h"
#include "parallel/topology.h"

namespace tessera {

// The ranks of one node of the layout.
struct RankGroupOptions {
  GroupSettings settings;
  std::string model_dir;
  int32_t num_threads = 0;  // of all ranks of this process; 0: its CPUs
  std::string cpu_isa = "auto";
  int32_t emulated_gpus = 0;
  int32_t node = 0;
  RemoteRanks remote;  // with several nodes
};

// Used by one thread at a time, except Abort; with several nodes one thread may Submit while
// another Waits.
class RankGroup {
 public:
  RankGroup(RankGroupOptions options, ModelConfig config);
  ~RankGroup();
  RankGroup(const RankGroup&) = delete;
  RankGroup& operator=(const RankGroup&) = delete;

  // Verifies the checkpoint, connects the ranks and loads their slices side by side. `progress`
  // is called from a loading thread with the first rank's share.
  absl::Status Load(const LoadProgress& progress);
  MemoryReport memory() const;  // after Load
  GroupFacts facts() const;     // after Load
  absl::Status AllocateKv(int32_t num_blocks);
  absl::Status AllocateTrialKv(int32_t num_blocks);  // see Executor
  int32_t max_steps_under_way() const;               // see Executor
  void Submit(std::shared_ptr<const StepPlan> plan);
  // The oldest step's results of those data-parallel groups whose first rank is here. Any error
  // is sticky; a step that takes longer than the step timeout is one. A rank that hangs while it
  // shares the calling thread hangs the caller, too: callers have a Watchdog (engine/watchdog.h).
  absl::StatusOr<NodeStepResult> Wait();
  // Ends whatever the ranks do; later calls return `reason` (the first one wins). Any thread.
  void Abort(const absl::Status& reason);
  // DEADLINE_EXCEEDED when a rank hangs; its thread is then left behind.
  absl::Status Shutdown(absl::Time deadline);

 private:
  struct State;
  using RankWork = std::function<absl::Status(State& state, int32_t local_rank)>;
  // Runs `work` on every rank at the same time; the first error wins. What it captures must live
  // as long as the ranks: after an abort this returns while they may still run.
  absl::Status OnEveryRank(RankWork work);
  // Waits until `condition`, which is called under the mutex, holds; false at the deadline. Does
  // the work of the ranks that sit on the calling thread meanwhile.
  bool Await(absl::FunctionRef<bool()> condition, absl::Time deadline);

  // Shared with the carriers, which may outlive this object when they hang.
  const std::shared_ptr<State> state_;
  std::vector<std::unique_ptr<Carrier>> carriers_;
};

}  // namespace tessera

#endif  // TESSERA_ENGINE_EXECUTOR_RANK_GROUP_H_
