// Where a step's inputs and results lie in a rank's device memory: at addresses that depend on the
// step's bucket only and never move, which is what a captured graph can replay.
#ifndef TESSERA_ENGINE_EXECUTOR_STEP_BUFFERS_H_
#define TESSERA_ENGINE_EXECUTOR_STEP_BUFFERS_H_

#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/model/qwen3.h"
#include "engine/scheduler/step_plan.h"
#include "kernels/ops.h"

namespace tessera {

// The largest step of one group.
struct StepLimits {
  int32_t max_tokens = 0;
  int32_t max_sequences = 0;
  int32_t max_blocks = 0;  // of one sequence
  int32_t max_positions = 0;
  int32_t vocab_size = 0;
};

// Sizes of a step's arrays, for one group.
struct StepExtents {
  int64_t tokens = 0;
  int64_t sequences = 0;
  int64_t max_blocks = 0;
  int64_t rows = 0;  // of logits

  bool operator==(const StepExtents&) const = default;
};

// 1, 2, 4, 8, 16, 24, 32, … : the smallest that holds `count`, at most `limit`. 0 stays 0.
int64_t BatchBucket(int64_t count, int64_t limit);

// How wide the block tables of a decode step are: 16, 64, 256, … blocks, at most `limit`. Few
// widths, as each has its graphs.
int64_t TableBucket(int64_t blocks, int64_t limit);

// What the plan needs, no more.
StepExtents ExactExtents(const BatchPlan& plan);
// The bucket of the plan. In a decode step (each sequence has one token) tokens, sequences and rows
// are the same number; a mixed step has a bucket for each, and block tables as wide as a power of
// two. A padded sequence exists wherever there is a padded token.
StepExtents BucketExtents(const BatchPlan& plan, const StepLimits& limits);
// The buckets of all groups of a step. When all decode they get the same one, the largest, so that
// every rank has a graph of the step.
std::vector<StepExtents> GroupBuckets(const StepPlan& plan, const StepLimits& limits);
// All buckets of decode steps, smallest first.
std::vector<StepExtents> DecodeBuckets(const StepLimits& limits);
// A plan without tokens: all of its bucket is padding.
BatchPlan EmptyPlan();

// A step's arrays on the device.
struct StepViews {
  StepExtents extents;
  bool all_alike = true;        // all groups of the step have these extents
  ForwardBatch forward;         // without group_tokens and drawn_tokens
  ConstTensorView logits_rows;  // [N] int
  ConstTensorView copy_from;    // [P] int, as long as the plan's
  ConstTensorView copy_to;      // [P] int
  SampleArgs sampling;          // inputs only
};

// The uploaded arrays of a rank's steps. All but the lists (penalties that begin anew,
// adjustments, masks, blocks to copy) have their place by the extents alone; the lists lie behind
// them, as long as they are. What pads does nothing: token, slot, block and row of logits -1,
// context 0. One thread.
class StepInputs {
 public:
  // `device` must outlive the object.
  static absl::StatusOr<StepInputs> Create(Device* device, const StepLimits& limits);

  // One upload. The views hold until the next call's work on the device. INVALID_ARGUMENT for a
  // plan beyond the limits.
  absl::StatusOr<StepViews> Upload(const BatchPlan& plan, const StepExtents& extents);
  int64_t bytes() const { return static_cast<int64_t>(buffer_.bytes()); }
  static int64_t Bytes(const StepLimits& limits);

 private:
  StepInputs(Device* device, const StepLimits& limits) : device_(device), limits_(limits) {}

  Device* device_;
  StepLimits limits_;
  DeviceBuffer buffer_;
  std::vector<char> staging_;
};

// The sampling inputs and outputs of rows [begin, begin + count).
SampleArgs SliceRows(const SampleArgs& all, int64_t begin, int64_t count);

// A step's results, section after section: the expert rows so far, an int64_t, then 4-byte
// elements.
struct ResultLayout {
  int64_t rows;
  int64_t top;

  // Alternatives per row that there is room for from the start. What steps beyond that ask for lies
  // elsewhere, and is a read of its own.
  static constexpr int64_t kUsualTop = 20;
  static constexpr size_t kExpertRowsBytes = sizeof(int64_t);
  static constexpr size_t kTokenOffset = kExpertRowsBytes;  // whatever the layout
  size_t token() const { return kTokenOffset; }
  size_t logprob() const { return token() + rows * 4; }
  size_t rank() const { return token() + rows * 8; }
  size_t top_tokens() const { return token() + rows * 12; }
  size_t top_logprobs() const { return top_tokens() + rows * top * 4; }
  size_t top_bytes() const { return rows * top * 8; }  // tokens and logprobs
  size_t bytes() const { return top_tokens() + top_bytes(); }
};

}  // namespace tessera

#endif  // TESSERA_ENGINE_EXECUTOR_STEP_BUFFERS_H_
