// One rank: a device, a slice of the model, its KV storage, and the step that uses them.
#ifndef TESSERA_ENGINE_EXECUTOR_RANK_WORKER_H_
#define TESSERA_ENGINE_EXECUTOR_RANK_WORKER_H_

#include <array>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "engine/executor/executor.h"
#include "engine/executor/step_buffers.h"
#include "engine/executor/step_graphs.h"
#include "engine/executor/step_result.h"
#include "engine/model/qwen3.h"
#include "engine/scheduler/step_plan.h"
#include "kernels/ops.h"

namespace tessera {

struct RankWorkerOptions {
  DType dtype = DType::kBF16;  // of weights and KV
  int32_t block_size = 16;     // tokens per KV block
  int32_t max_tokens = 2048;   // tokens of one step
  int32_t max_num_seqs = 64;   // sequences of one step
  int32_t max_positions = 0;   // context limit
  bool graphs = true;          // of decode steps, where the backend captures
  // Of so many steps of ranks that exchange, one runs without its graph, to time the collective
  // operations.
  uint64_t steps_per_timed_one = 32;
  // Steps between decisions whether experts should move; 0: they never do.
  int32_t rebalance_interval = 0;
  std::shared_ptr<QuietWork> preparation;  // of moving experts; all ranks of the process share it
};

// What one step brought on one rank.
struct RankWorkerResult {
  BatchResult batch;  // of the group's first rank; empty on the others
  RankReport report;
  std::shared_ptr<const ExpertLoads> expert_loads;  // in steps that exchanged them
};

// Used by one thread, but for Finish.
class RankWorker {
 public:
  // Connects the rank and loads its weights. Keeps the checkpoint open when experts may move.
  static absl::StatusOr<std::unique_ptr<RankWorker>> Create(
      const ModelConfig& config, const ModelShard& shard, const RankWorkerOptions& options,
      std::shared_ptr<Checkpoint> checkpoint, const ConnectRank& connect, std::unique_ptr<Ops> ops,
      const LoadProgress& progress);
  // Waits for the device; steps that have not finished are given up.
  ~RankWorker();

  // Also captures the graphs of decode steps, which hold the cache's addresses, and begins to count
  // what experts do.
  absl::Status AllocateKv(int32_t num_blocks);
  // Does neither: for steps that only find out what steps take.
  absl::Status AllocateTrialKv(int32_t num_blocks);
  // Steps that may have begun and not finished.
  static constexpr uint64_t kMaxSteps = 2;
  // Enqueues the rank's group's part of the plan: one upload, the operations, one download.
  absl::Status Begin(const StepPlan& plan);
  // Waits for the oldest step and takes its results; DEADLINE_EXCEEDED after `limit`. Another
  // thread than Begin's may call this, also while it begins the next step, on devices that do not
  // execute at once and when experts do not move.
  absl::StatusOr<RankWorkerResult> Finish(absl::Duration limit);
  // Why the oldest step cannot end, as far as the device knows by now; OK: nothing is wrong with
  // it. For Finish's thread.
  absl::Status Health();
  // After each step, when its results are out of the way: moves experts. An error is sticky.
  absl::Status BetweenSteps();
  MemoryReport memory() const;
  const Qwen3Model& model() const { return *model_; }
  const StepGraphFacts& step_graphs() const { return graphs_.facts(); }
  // Fails this rank's collective operations and those of its peers in this process. Any thread.
  void Abort(const absl::Status& reason);

 private:
  RankWorker(const ModelConfig& config, const ModelShard& shard, const RankWorkerOptions& options,
             std::unique_ptr<Ops> ops);
  absl::Status AllocateStepBuffers();
  absl::Status AllocateSampling();
  absl::StatusOr<StepViews> UploadPlan(const StepPlan& plan);
  // A step that has begun.
  struct UnderWay {
    std::chrono::steady_clock::time_point began;
    uint64_t end = 0;  // the device's mark
    int64_t rows = 0;
    int64_t padded_rows = 0;
    int32_t num_top = 0;
    bool replayed = false;      // as a graph
    std::vector<char> bytes;    // the results on the host
    std::vector<float> logits;  // when asked for
  };
  // Whether decode steps shall have graphs, as far as their extents allow it.
  bool wants_graphs() const {
    // Moving experts wait for words between the steps.
    return options_.graphs && ops_->PadsSteps() && options_.rebalance_interval == 0;
  }
  absl::Status CaptureGraphs();
  // Null: the step is to be enqueued.
  StepGraph* GraphOf(const StepViews& views) const;
  // The tokens of the step before, where every step's Embed looks for them.
  ConstTensorView DrawnTokens() const;
  // The layers, and the logits of the first rows that are drawn from: what a graph holds.
  void EnqueueModel(const StepViews& views);
  TensorView FirstLogits(const StepViews& views) const;
  absl::Status EnqueueSampling(const StepPlan& plan, const StepViews& views, UnderWay* step);
  // Whether all results have their place in results_; else alternatives lie in more_alternatives_.
  bool HasRoom(const ResultLayout& layout) const { return layout.bytes() <= results_.bytes(); }
  absl::Status SetResults(const ResultLayout& layout, SampleArgs* args);
  void DownloadResults(const ResultLayout& layout, UnderWay* step);
  BatchResult TakeResults(UnderWay* step) const;
  CollectiveTimes TimesSinceStart() const;
  // The time and the expert rows of the step that ends now.
  RankReport Report(const UnderWay& step, absl::Duration step_time);
  absl::Status Reserve(DeviceBuffer* buffer, size_t bytes, const char* what);

  const ModelConfig config_;
  const ModelShard shard_;
  const RankWorkerOptions options_;
  const StepLimits limits_;
  std::unique_ptr<Ops> ops_;  // declared first: all below die before their device
  RankLinks links_;
  std::unique_ptr<Qwen3Model> model_;
  DeviceBuffer kv_storage_;
  TensorView cache_;         // all of it: [2 * layers, num_blocks, elements of a block]
  std::vector<KvLayer> kv_;  // one per layer
  std::optional<StepInputs> inputs_;
  std::array<UnderWay, kMaxSteps> under_way_;
  // Of the step that drew last: what comes later in the queue reads them there, and the next step's
  // take their place. They never move.
  DeviceBuffer results_;
  DeviceBuffer more_alternatives_;          // of a step for whose alternatives results_ has no room
  uint64_t num_begun_ = 0;                  // Begin's thread
  std::atomic<uint64_t> num_finished_ = 0;  // Finish's thread writes
  std::chrono::steady_clock::time_point last_end_;
  DeviceBuffer logits_;  // [LogitsRowsPerPass, V] f32
  // Of the rank that draws; see SampleArgs.
  TensorView penalty_listed_;  // [max_num_seqs, ceil(V / 32)] int
  TensorView penalty_counts_;  // [max_num_seqs, V] int
  DeviceBuffer penalties_;     // what they view
  // As they were at the end of the last step.
  CollectiveTimes times_{};
  absl::Duration idle_time_;
  int64_t expert_rows_ = 0;
  int64_t moved_bytes_ = 0;
  StepGraphs graphs_;  // dies before all that it views
};

}  // namespace tessera

#endif  // TESSERA_ENGINE_EXECUTOR_RANK_WORKER_H_
