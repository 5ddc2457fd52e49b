// Captured operations as a CUDA graph.
#ifndef TESSERA_KERNELS_CUDA_STEP_GRAPH_H_
#define TESSERA_KERNELS_CUDA_STEP_GRAPH_H_

#include <cuda_runtime.h>

#include <cstddef>
#include <memory>
#include <utility>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "kernels/cuda/cuda_device.h"
#include "kernels/ops.h"

namespace tessera::cuda {

// Nodes are linked as the stream linked the launches, so kernels still begin while the one in front
// of them ends (programmatic dependent launch). Used by the thread that drives the device.
class CudaStepGraph final : public StepGraph {
 public:
  // See Ops::Capture. The graph is on the GPU when this returns, so that its first step is no
  // slower than the others. The device and whose operations it holds must outlive it.
  static absl::StatusOr<std::unique_ptr<StepGraph>> Capture(CudaDevice& device,
                                                            absl::FunctionRef<void()> enqueue);
  ~CudaStepGraph() override;
  CudaStepGraph(const CudaStepGraph&) = delete;
  CudaStepGraph& operator=(const CudaStepGraph&) = delete;

  void Enqueue() override;
  size_t bytes() const override { return bytes_; }

 private:
  CudaStepGraph(CudaDevice& device, cudaGraphExec_t exec, std::vector<PeerWatch*> watches,
                size_t bytes)
      : device_(device), exec_(exec), watches_(std::move(watches)), bytes_(bytes) {}
  // As one operation of each of these watches.
  void LaunchFor(absl::Span<PeerWatch* const> watches);

  CudaDevice& device_;
  const cudaGraphExec_t exec_;
  const std::vector<PeerWatch*> watches_;
  const size_t bytes_;
};

}  // namespace tessera::cuda

#endif  // TESSERA_KERNELS_CUDA_STEP_GRAPH_H_
