#include <cuda_runtime.h>

#include <algorithm>

#include "kernels/cuda/fake/runtime.h"

using namespace tessera::simt::fake;  // NOLINT: these functions are in no namespace by contract

namespace {

// Whether node `to` comes after node `from`, directly or not.
bool Follows(const std::vector<Node>& nodes, size_t to, size_t from) {
  if (to == from) return true;
  return std::any_of(nodes[to].after.begin(), nodes[to].after.end(),
                     [&](size_t before) { return Follows(nodes, before, from); });
}

// Every branch must have been joined into the origin.
bool Joined(const Capture& capture) {
  for (size_t node = 0; node < capture.nodes.size(); ++node) {
    const auto& last = capture.origin->last_nodes;
    if (std::none_of(last.begin(), last.end(),
                     [&](size_t end) { return Follows(capture.nodes, end, node); })) {
      return false;
    }
  }
  return true;
}

struct Done {
  Mark mark;
  std::vector<uint64_t> seen;
};

cudaError_t WaitFor(CUstream_st* at, const Done& other) ABSL_EXCLUSIVE_LOCKS_REQUIRED(R().mutex) {
  if (other.mark.stream == at) return cudaSuccess;
  Merge(&at->seen, other.seen);
  return EnqueueLocked(at, {.make = nullptr, .after = other.mark});
}

}  // namespace

GraphCalls tessera::simt::fake::CountedGraphCalls() {
  MutexLock lock(&R().mutex);
  return R().graph_calls;
}

TESSERA_CUDA_API_BEGIN
cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
  tessera::MutexLock lock(&R().mutex);
  if (stream == nullptr || stream->capture != nullptr) {
    return Failed(cudaErrorStreamCaptureUnsupported);
  }
  ++R().graph_calls.captured;
  stream->capture = std::make_shared<Capture>();
  stream->capture->origin = stream;
  stream->capture->branches = {stream};
  stream->branch = 0;
  stream->last_nodes.clear();
  return cudaSuccess;
}

cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  tessera::MutexLock lock(&R().mutex);
  *graph = nullptr;
  if (stream == nullptr || stream->capture == nullptr || stream->capture->origin != stream) {
    return Failed(cudaErrorStreamCaptureUnmatched);
  }
  const std::shared_ptr<Capture> capture = stream->capture;
  const bool joined = Joined(*capture);
  for (CUstream_st* branch : capture->branches) {
    branch->capture = nullptr;
    branch->last_nodes.clear();
  }
  if (!joined) return Failed(cudaErrorStreamCaptureUnjoined);
  *graph = new CUgraph_st{std::move(capture->nodes), capture->branches.size()};
  return cudaSuccess;
}

cudaError_t cudaGraphGetNodes(cudaGraph_t graph, cudaGraphNode_t* nodes, size_t* count) {
  if (nodes != nullptr) return Failed(cudaErrorInvalidValue, "only the number of nodes is known");
  *count = graph->nodes.size();
  return cudaSuccess;
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t* exec, cudaGraph_t graph, unsigned long long) {
  tessera::MutexLock lock(&R().mutex);
  *exec = new CUgraphExec_st{graph->nodes, CurrentDevice(), {}};
  for (size_t branch = 1; branch < graph->branches; ++branch) {
    (*exec)->branches.push_back(NewStream(CurrentDevice()));
  }
  return cudaSuccess;
}

// Nothing of a graph lies on an emulated GPU.
cudaError_t cudaGraphUpload(cudaGraphExec_t, cudaStream_t stream) {
  tessera::MutexLock lock(&R().mutex);
  CUstream_st* s = Resolve(stream);
  if (s->capture != nullptr) return Failed(cudaErrorStreamCaptureUnsupported);
  return Sticky(R().gpus[s->device]);
}

// The first branch's nodes go to the stream of the launch; the others to streams of their own,
// which begin behind the stream's last operation and are joined at the end.
cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream) {
  tessera::MutexLock lock(&R().mutex);
  CUstream_st* s = Resolve(stream);
  if (s->capture != nullptr) return Failed(cudaErrorStreamCaptureUnsupported);
  ++R().graph_calls.launched;
  std::vector<CUstream_st*> branches = {s};
  const Mark begin{s, s->enqueued};
  const std::vector<uint64_t> seen = s->seen;
  for (CUstream_st* branch : exec->branches) {
    branches.push_back(branch);
    Merge(&branch->seen, seen);
    const cudaError_t error = EnqueueLocked(branch, {.make = nullptr, .after = begin});
    if (error != cudaSuccess) return error;
  }
  std::vector<Done> done(exec->nodes.size());
  for (size_t i = 0; i < exec->nodes.size(); ++i) {
    const Node& node = exec->nodes[i];
    CUstream_st* at = branches[node.branch];
    for (size_t before : node.after) {
      const cudaError_t error = WaitFor(at, done[before]);
      if (error != cudaSuccess) return error;
    }
    const cudaError_t error = node.enqueue(at);
    if (error != cudaSuccess) return error;
    done[i] = {{at, at->enqueued}, at->seen};
  }
  for (CUstream_st* branch : exec->branches) {
    const cudaError_t error = WaitFor(s, {{branch, branch->enqueued}, branch->seen});
    if (error != cudaSuccess) return error;
  }
  return cudaSuccess;
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  delete graph;
  return cudaSuccess;
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec) {
  for (CUstream_st* branch : exec->branches) cudaStreamDestroy(branch);
  delete exec;
  return cudaSuccess;
}

TESSERA_CUDA_API_END
