// The decode steps of a rank as graphs: one per bucket, captured at start, so that no step ever
// waits for a capture.
#ifndef TESSERA_ENGINE_EXECUTOR_STEP_GRAPHS_H_
#define TESSERA_ENGINE_EXECUTOR_STEP_GRAPHS_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "engine/executor/executor.h"
#include "engine/executor/step_buffers.h"
#include "kernels/ops.h"

namespace tessera {

// One thread.
class StepGraphs {
 public:
  struct Capture {
    Ops& ops;
    StepInputs& inputs;
    const StepLimits& limits;
    // Whether steps of these extents have a graph.
    absl::FunctionRef<bool(const StepExtents& extents)> wanted;
    // Enqueues what a graph holds of a step with these arrays.
    absl::FunctionRef<void(const StepViews& views)> enqueue;
  };
  // Captures every wanted decode bucket, smallest first, in place of the graphs that there were. No
  // graphs where the backend has no use for them. What the operations view must live, in its
  // place, as long as the graphs. On an error there are none.
  absl::Status CaptureAll(const Capture& capture);
  void Clear();
  // Of device memory that the graphs of all decode buckets of a model take: an estimate from above
  // for who has to leave room. A layer has no more than 32 operations, an operation 2 KiB: its
  // arguments, tensor maps among them, and what CUDA keeps beside them.
  static int64_t MostBytes(const StepLimits& limits, int32_t num_layers);

  // Of a step with these extents; null: there is none.
  StepGraph* Find(const StepExtents& extents) const;
  const StepGraphFacts& facts() const { return facts_; }

 private:
  struct Bucket {
    StepExtents extents;
    std::unique_ptr<StepGraph> graph;
  };
  std::vector<Bucket> buckets_;
  StepGraphFacts facts_;
};

}  // namespace tessera

#endif  // TESSERA_ENGINE_EXECUTOR_STEP_GRAPHS_H_
