#include "kernels/cuda/step_graph.h"

#include "kernels/core/status_macros.h"
#include "kernels/cuda/cuda_error.h"

namespace tessera::cuda {
namespace {

size_t FreeMemory() {
  size_t free = 0;
  size_t total = 0;
  return cudaMemGetInfo(&free, &total) == cudaSuccess ? free : 0;
}

}  // namespace

absl::StatusOr<std::unique_ptr<StepGraph>> CudaStepGraph::Capture(
    CudaDevice& device, absl::FunctionRef<void()> enqueue) {
  ASSIGN_OR_RETURN(CudaDevice::Captured captured, device.Capture(enqueue));
  const size_t free_before = FreeMemory();
  cudaGraphExec_t exec = nullptr;
  cudaError_t error = cudaGraphInstantiate(&exec, captured.graph, 0);
  cudaGraphDestroy(captured.graph);
  if (error == cudaSuccess) {
    error = cudaGraphUpload(exec, device.stream());
    if (error != cudaSuccess) cudaGraphExecDestroy(exec);
  }
  if (error != cudaSuccess) {
    cudaGetLastError();  // is not that of a later call
    return ToStatus(error, device.index(), "making a graph of captured operations");
  }
  const size_t free_after = FreeMemory();
  const size_t taken = free_before > free_after ? free_before - free_after : 0;
  return std::unique_ptr<StepGraph>(
      new CudaStepGraph(device, exec, std::move(captured.watches), taken));
}

CudaStepGraph::~CudaStepGraph() { cudaGraphExecDestroy(exec_); }

void CudaStepGraph::Enqueue() { LaunchFor(watches_); }

void CudaStepGraph::LaunchFor(absl::Span<PeerWatch* const> watches) {
  if (watches.empty()) {
    device_.Launch("a step's graph", [&] { return cudaGraphLaunch(exec_, device_.stream()); });
    return;
  }
  watches[0]->RunGraph([&] { LaunchFor(watches.subspan(1)); });
}

}  // namespace tessera::cuda
