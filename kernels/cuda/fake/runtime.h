// The state of the fake runtime: streams as queues of deferred work, GPUs, events, graphs.
//
// One mutex guards it all; no operation runs under it. Whoever waits for something drives: takes
// the operations that it needs and runs them, one driver at a time, while others enqueue or wait
// for it. Kernels that wait for other GPUs' (LaunchShape::together) run interleaved on a thread of
// their own, which drives too, so that nobody is kept by them.
#ifndef TESSERA_KERNELS_CUDA_FAKE_RUNTIME_H_
#define TESSERA_KERNELS_CUDA_FAKE_RUNTIME_H_

#include <cuda_runtime.h>

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/time/time.h"
#include "kernels/core/mutex.h"
#include "kernels/cuda/emulation/emulator.h"
#include "kernels/cuda/emulation/global_memory.h"
#include "kernels/cuda/fake/emulated_gpus.h"

// Around the functions of the runtime's API. Compiled against NVIDIA's headers they have C names,
// of which there cannot be two with different parameters: what differs does not compile.
#ifdef TESSERA_FAKE_CUDA_RUNTIME
#define TESSERA_CUDA_API_BEGIN extern "C++" {
#else
#define TESSERA_CUDA_API_BEGIN extern "C" {
#endif
#define TESSERA_CUDA_API_END }

namespace tessera::simt::fake {

using emulation::StreamPosition;

// Tells that an operation has ended, and what is wrong with it, or nothing.
using Ended = std::function<void(const std::string& error)>;
// Runs an operation, or begins to: `ended` is called at its end.
using Run = std::function<void(const StreamPosition& at, Ended ended)>;
// What an operation does, made when it is enqueued (or the graph that holds it is launched): so it
// can look at host memory then.
using Make = std::function<Run()>;

// The last operation of a stream that something has to come after.
struct Mark {
  CUstream_st* stream = nullptr;
  uint64_t sequence = 0;
};

struct Operation {
  StreamPosition position;
  Mark after;                   // of another stream
  std::function<bool()> ready;  // null: at once. For operations that several streams meet in
  Run run;
};

struct Node {
  // Puts it into a stream, in a launch of the graph; with the runtime's mutex held.
  std::function<cudaError_t(CUstream_st*)> enqueue;
  std::vector<size_t> after;  // nodes in front of it
  size_t branch;              // nodes of a branch are in order
};
struct Capture {
  CUstream_st* origin = nullptr;
  std::vector<Node> nodes;
  std::vector<CUstream_st*> branches;  // [0]: origin
};

// A moment of a stream, as cudaEventRecord takes it.
struct Moment {
  Mark mark;
  std::vector<uint64_t> seen;
  double milliseconds = -1;  // when it was reached; negative: not yet
  std::shared_ptr<Capture> capture;
  std::vector<size_t> nodes;  // of the capture: the last ones before it
};

struct Gpu {
  std::string report;
  std::vector<CUstream_st*> streams;  // [0]: the default stream
  std::vector<CUstream_st*> unused;   // destroyed; their numbers are used again
};

struct Runtime {
  Mutex mutex;
  CondVar changed;
  bool driven ABSL_GUARDED_BY(mutex) = false;    // something is being done to operations or memory
  int waiting ABSL_GUARDED_BY(mutex) = 0;        // threads in BeginDriving
  bool works ABSL_GUARDED_BY(mutex) = false;     // the thread of kernels that wait is there
  uint64_t progress ABSL_GUARDED_BY(mutex) = 0;  // changes whenever something does
  // While nothing can be done: since when, and what `progress` was.
  absl::Time idle_since ABSL_GUARDED_BY(mutex);
  uint64_t rested_at ABSL_GUARDED_BY(mutex) = 0;
  absl::Time asked_at ABSL_GUARDED_BY(mutex);  // when a host last asked how far a stream is
  Gpu gpus[emulation::kMaxDevices] ABSL_GUARDED_BY(mutex);
  std::vector<uint64_t> host_seen ABSL_GUARDED_BY(mutex);  // what the host has waited for
  std::vector<std::unique_ptr<CUstream_st>> streams ABSL_GUARDED_BY(mutex);
  GraphCalls graph_calls ABSL_GUARDED_BY(mutex);
};
Runtime& R();

// The GPU of the calling thread; as cudaSetDevice left it.
int CurrentDevice();
void SetCurrentDevice(int device);
// Remembers a failure for cudaGetLastError and returns it. `text`: what cudaGetErrorString says of
// it.
cudaError_t Failed(cudaError_t error, std::string text = "");
// The error that a GPU is stuck in.
cudaError_t Sticky(const Gpu& gpu);

CUstream_st* Resolve(cudaStream_t stream) ABSL_EXCLUSIVE_LOCKS_REQUIRED(R().mutex);
CUstream_st* NewStream(int device) ABSL_EXCLUSIVE_LOCKS_REQUIRED(R().mutex);
// Whether another "process" has memory open that cudaMalloc gave.
bool IsOpen(const void* pointer) ABSL_EXCLUSIVE_LOCKS_REQUIRED(R().mutex);
void Merge(std::vector<uint64_t>* into, const std::vector<uint64_t>& from);

struct Request {
  Make make;
  Mark after = {};
  std::function<bool()> ready = nullptr;
  // What every launch of a graph that captures it does in its place; with the runtime's mutex held.
  // Needed of operations that streams meet in: they meet anew each time.
  std::function<cudaError_t(CUstream_st*)> again = nullptr;
};
// Appends to a stream, or to the graph that it captures.
cudaError_t Enqueue(cudaStream_t stream, Request request);
cudaError_t EnqueueLocked(CUstream_st* stream, Request request)
    ABSL_EXCLUSIVE_LOCKS_REQUIRED(R().mutex);
// Waits until a mark is reached.
void DriveTo(const Mark& mark) ABSL_EXCLUSIVE_LOCKS_REQUIRED(R().mutex);
// Lets one operation run that is needed for it, if one can.
void DriveOne(const Mark& mark) ABSL_EXCLUSIVE_LOCKS_REQUIRED(R().mutex);
// Before a kernel that waits for other GPUs' can run.
void StartWork() ABSL_LOCKS_EXCLUDED(R().mutex);
// Keeps all operations from running until EndDriving.
void BeginDriving() ABSL_EXCLUSIVE_LOCKS_REQUIRED(R().mutex);
void EndDriving() ABSL_EXCLUSIVE_LOCKS_REQUIRED(R().mutex);

}  // namespace tessera::simt::fake

struct CUstream_st {
  int device = 0;
  int number = 0;  // over all GPUs
  uint64_t enqueued = 0, done = 0;
  bool busy = false;           // an operation of it is under way
  std::vector<uint64_t> seen;  // what its next operation may rely on
  std::deque<tessera::simt::fake::Operation> queue;
  std::shared_ptr<tessera::simt::fake::Capture> capture;
  size_t branch = 0;
  std::vector<size_t> last_nodes;  // of the capture: what its next node comes after
};

struct CUevent_st {
  int device = 0;
  bool timed = true;
  std::shared_ptr<tessera::simt::fake::Moment> moment;  // null: never recorded
};

struct CUgraph_st {
  std::vector<tessera::simt::fake::Node> nodes;
  size_t branches = 1;
};

struct CUgraphExec_st {
  std::vector<tessera::simt::fake::Node> nodes;
  int device = 0;
  std::vector<CUstream_st*> branches;  // numbers for the branches beyond the first
};

#endif  // TESSERA_KERNELS_CUDA_FAKE_RUNTIME_H_
