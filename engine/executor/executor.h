// All ranks behind one object.
#ifndef TESSERA_ENGINE_EXECUTOR_EXECUTOR_H_
#define TESSERA_ENGINE_EXECUTOR_EXECUTOR_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "engine/executor/step_result.h"
#include "engine/model/moe_comm_choice.h"
#include "engine/scheduler/step_plan.h"

namespace tessera {

struct MemoryReport {
  int64_t weight_bytes = 0;    // largest rank
  int64_t buffer_bytes = 0;    // largest rank
  int64_t kv_block_bytes = 0;  // one block, all layers, largest rank
  // What the graphs of decode steps will take at most, while they are not captured; largest rank.
  int64_t graph_bytes = 0;
  // Of devices with memory of their own, else 0; the fullest one's.
  int64_t device_bytes = 0;
  int64_t device_free_bytes = 0;
};

// Graphs of decode steps (engine/executor/step_graphs.h) of one rank.
struct StepGraphFacts {
  int32_t count = 0;
  int64_t bytes = 0;  // of device memory, as far as the device tells
};

// What has to be reckoned with when both are ranks of one group.
MemoryReport LargestRank(const MemoryReport& a, const MemoryReport& b);

// What the checkpoint holds and what became of it.
struct WeightFacts {
  std::string stored = "plain";      // or QuantizationText
  std::string kept = "bfloat16";     // how matrices lie in memory
  std::string activations = "full";  // what quantised matrices multiply
};

// All ranks together, once they are loaded.
struct GroupFacts {
  int32_t num_ranks = 1;
  bool unties_head = false;   // kUntiedHeadWarning (engine/model/checkpoint_check.h)
  std::string gemm = "ours";  // see OpsOptions
  WeightFacts weights;
  MoeCommChoice moe_comm;                 // of all MoE layers and steps
  int32_t expert_rebalance_interval = 0;  // steps; 0: experts stay
  int32_t spare_expert_slots = 0;         // of every rank and MoE layer
  int64_t spare_expert_bytes = 0;         // of one rank, once all are filled
  StepGraphFacts step_graphs;             // of every rank, once there is a KV cache
};

// Used by one thread at a time, except Abort().
class Executor {
 public:
  virtual ~Executor() = default;

  // What loading took; the weights are loaded when the executor has been created. What is free on
  // devices: as of the last AllocateKv, or later.
  virtual MemoryReport memory() const = 0;
  virtual GroupFacts facts() const = 0;
  virtual int32_t num_groups() const = 0;  // data-parallel groups
  // KV storage of `num_blocks` blocks for every group, in place of what there was. No step is under
  // way.
  virtual absl::Status AllocateKv(int32_t num_blocks) = 0;
  // The same for steps that only find out what steps take: AllocateKv comes before any other. No
  // graph is captured, and what these steps do to experts is not counted.
  virtual absl::Status AllocateTrialKv(int32_t num_blocks) { return AllocateKv(num_blocks); }
  // Steps that may be submitted and not waited for, at least 1: more than 1 where a device would
  // idle while the host takes results and plans the next step.
  virtual int32_t max_steps_under_way() const = 0;
  // FIFO: results come back in the order of submission. A plan may name tokens that the step before
  // it draws.
  virtual void Submit(StepPlan plan) = 0;
  // Blocks for the oldest submitted step. An error is sticky: the executor is dead. Hangs when a
  // rank does that shares this thread: watch it (engine/watchdog.h).
  virtual absl::StatusOr<StepResult> Wait() = 0;
  // Makes a pending or later Wait() fail soon. Any thread.
  virtual void Abort(absl::Status reason) = 0;
  virtual absl::Status Shutdown(absl::Time deadline) = 0;
};

}  // namespace tessera

#endif  // TESSERA_ENGINE_EXECUTOR_EXECUTOR_H_
