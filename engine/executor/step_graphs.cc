#include "engine/executor/step_graphs.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/core/status_macros.h"

namespace tessera {

void StepGraphs::Clear() {
  buckets_.clear();
  facts_ = StepGraphFacts();
}

int64_t StepGraphs::MostBytes(const StepLimits& limits, int32_t num_layers) {
  constexpr int64_t kOperationsOfLayer = 32;
  constexpr int64_t kOtherOperations = 16;
  constexpr int64_t kOperationBytes = 2 << 10;
  return std::ssize(DecodeBuckets(limits)) * (kOperationsOfLayer * num_layers + kOtherOperations) *
         kOperationBytes;
}

absl::Status StepGraphs::CaptureAll(const Capture& capture) {
  Clear();
  std::vector<Bucket> captured;
  StepGraphFacts facts;
  for (const StepExtents& extents : DecodeBuckets(capture.limits)) {
    if (!capture.wanted(extents)) continue;
    ASSIGN_OR_RETURN(const StepViews views, capture.inputs.Upload(EmptyPlan(), extents));
    absl::StatusOr<std::unique_ptr<StepGraph>> graph =
        capture.ops.Capture([&] { capture.enqueue(views); });
    if (!graph.ok()) {
      return absl::Status(graph.status().code(),
                          absl::StrCat("the graph of a step with ", extents.tokens,
                                       " sequences: ", graph.status().message()));
    }
    if (*graph == nullptr) return absl::OkStatus();
    ++facts.count;
    facts.bytes += static_cast<int64_t>((*graph)->bytes());
    captured.push_back({.extents = extents, .graph = *std::move(graph)});
  }
  buckets_ = std::move(captured);
  facts_ = facts;
  return absl::OkStatus();
}

StepGraph* StepGraphs::Find(const StepExtents& extents) const {
  const auto found = std::find_if(buckets_.begin(), buckets_.end(),
                                  [&](const Bucket& bucket) { return bucket.extents == extents; });
  return found == buckets_.end() ? nullptr : found->graph.get();
}

}  // namespace tessera
