#include <cuda_runtime.h>

#include <algorithm>
#include <set>
#include <thread>
#include <utility>

#include "kernels/core/monotonic_time.h"
#include "kernels/cuda/fake/emulated_gpus.h"
#include "kernels/cuda/fake/machine_faults.h"
#include "kernels/cuda/fake/runtime.h"

namespace tessera::simt::fake {
namespace {

// How long waiting goes on while nothing happens, in case a host thread brings what is missing.
absl::Duration Patience() {
  return absl::Milliseconds(emulation::GetOptions().patience_milliseconds);
}

void Note(std::vector<uint64_t>* into, const CUstream_st& stream, uint64_t sequence) {
  const auto at = static_cast<size_t>(stream.number);
  if (into->size() <= at) into->resize(at + 1, 0);
  (*into)[at] = std::max((*into)[at], sequence);
}

bool Reached(const Mark& mark) {
  return mark.stream == nullptr || mark.stream->done >= mark.sequence;
}

// The stream whose first operation can run and is needed to get to the mark; null: none can.
CUstream_st* NextNeeded(const Mark& mark, std::set<const CUstream_st*>* asked) {
  if (Reached(mark) || mark.stream->queue.empty() || mark.stream->busy ||
      !asked->insert(mark.stream).second) {
    return nullptr;
  }
  const Operation& first = mark.stream->queue.front();
  if (!Reached(first.after)) return NextNeeded(first.after, asked);
  if (first.ready != nullptr && !first.ready()) return nullptr;
  return mark.stream;
}

// Whether an operation that streams meet in is what the mark's stream does next.
bool MeetsOthers(const Mark& mark) {
  return !Reached(mark) && !mark.stream->queue.empty() &&
         mark.stream->queue.front().ready != nullptr;
}

// Operations that several streams meet in need the others' operations too, whichever they are.
CUstream_st* NextOfAny() ABSL_EXCLUSIVE_LOCKS_REQUIRED(R().mutex) {
  for (const auto& stream : R().streams) {
    if (stream->queue.empty() || stream->busy) continue;
    const Operation& first = stream->queue.front();
    if (Reached(first.after) && (first.ready == nullptr || first.ready())) return stream.get();
  }
  return nullptr;
}

CUstream_st* Next(const Mark& mark) ABSL_EXCLUSIVE_LOCKS_REQUIRED(R().mutex) {
  std::set<const CUstream_st*> asked;
  CUstream_st* needed = NextNeeded(mark, &asked);
  return needed != nullptr ? needed : NextOfAny();
}

void End(CUstream_st* stream, const StreamPosition& at, const std::string& error)
    ABSL_EXCLUSIVE_LOCKS_REQUIRED(R().mutex) {
  Gpu& gpu = R().gpus[stream->device];
  if (!error.empty() && gpu.report.empty()) {
    gpu.report = "GPU " + std::to_string(stream->device) + ": " + error;
  }
  stream->busy = false;
  stream->done = at.sequence;
  ++R().progress;
}

// The caller drives.
void RunFirst(CUstream_st* stream) ABSL_EXCLUSIVE_LOCKS_REQUIRED(R().mutex) {
  Operation op = std::move(stream->queue.front());
  stream->queue.pop_front();
  ++R().progress;
  Gpu& gpu = R().gpus[stream->device];
  if (gpu.report.empty()) gpu.report = WhyLost(stream->device);
  if (!gpu.report.empty() || op.run == nullptr) {
    End(stream, op.position, "");
    return;
  }
  stream->busy = true;
  R().mutex.Unlock();
  op.run(op.position, [stream, at = op.position](const std::string& error) {
    MutexLock lock(&R().mutex);
    End(stream, at, error);
  });
  R().mutex.Lock();
}

// Goes on with the kernels that wait for other GPUs'. False: nothing can be done.
bool GoOn(bool in_vain) ABSL_EXCLUSIVE_LOCKS_REQUIRED(R().mutex) {
  R().mutex.Unlock();
  const emulation::Progress progress = emulation::Run(in_vain);
  R().mutex.Lock();
  if (progress == emulation::Progress::kEnded) return true;
  // Those GPUs get on, whatever their host threads do.
  CUstream_st* next = NextOfAny();
  if (next != nullptr) {
    RunFirst(next);
    return true;
  }
  if (in_vain) emulation::FailOldest();
  return in_vain;
}

// For a moment, or until something changes: the kernels may be waiting for the host, which does not
// say when it has written what they wait for. True: it has neither enqueued nor asked for anything
// for so long that they wait in vain.
bool Rest() ABSL_EXCLUSIVE_LOCKS_REQUIRED(R().mutex) {
  const absl::Time begin = MonotonicNow();
  if (R().progress != R().rested_at) R().idle_since = begin;
  R().rested_at = R().progress;
  R().changed.WaitWithTimeout(
      &R().mutex,
      std::clamp((begin - R().idle_since) / 4, absl::Microseconds(50), absl::Milliseconds(10)));
  return R().progress == R().rested_at &&
         MonotonicNow() - std::max(R().idle_since, R().asked_at) > Patience();
}

// The thread of the kernels that wait for other GPUs'.
[[noreturn]] void Work() {
  MutexLock lock(&R().mutex);
  bool in_vain = false;
  while (true) {
    while (R().driven || R().waiting > 0 || !emulation::Executing()) R().changed.Wait(&R().mutex);
    R().driven = true;
    const bool done = GoOn(in_vain);
    EndDriving();
    in_vain = !done && Rest();
  }
}

void Append(CUstream_st* s, Request request) ABSL_EXCLUSIVE_LOCKS_REQUIRED(R().mutex) {
  Merge(&s->seen, R().host_seen);
  StreamPosition position{s->device, s->number, ++s->enqueued, s->seen, R().host_seen};
  Note(&s->seen, *s, s->enqueued);
  Run run = request.make == nullptr ? nullptr : request.make();
  s->queue.push_back(
      {std::move(position), request.after, std::move(request.ready), std::move(run)});
  ++R().progress;
  R().changed.SignalAll();
}

}  // namespace

void StartWork() {
  MutexLock lock(&R().mutex);
  if (!std::exchange(R().works, true)) std::thread(Work).detach();
}

Runtime& R() {
  static Runtime& runtime = *new Runtime;  // outlives the thread that works
  return runtime;
}

void Merge(std::vector<uint64_t>* into, const std::vector<uint64_t>& from) {
  if (into->size() < from.size()) into->resize(from.size(), 0);
  for (size_t i = 0; i < from.size(); ++i) (*into)[i] = std::max((*into)[i], from[i]);
}

// Streams are numbered so that the numbers of one GPU's do not depend on what others create: the
// seed of an operation is made of them.
CUstream_st* NewStream(int device) {
  Gpu& gpu = R().gpus[device];
  if (!gpu.unused.empty()) {
    CUstream_st* s = gpu.unused.back();
    gpu.unused.pop_back();
    gpu.streams.push_back(s);
    return s;
  }
  auto s = std::make_unique<CUstream_st>();
  s->device = device;
  int created = 0;
  for (const auto& other : R().streams) created += other->device == device ? 1 : 0;
  s->number = created * emulation::kMaxDevices + device;
  gpu.streams.push_back(s.get());
  R().streams.push_back(std::move(s));
  return gpu.streams.back();
}

CUstream_st* Resolve(cudaStream_t stream) {
  if (stream != nullptr) return stream;
  Gpu& gpu = R().gpus[CurrentDevice()];
  return gpu.streams.empty() ? NewStream(CurrentDevice()) : gpu.streams[0];
}

cudaError_t EnqueueLocked(CUstream_st* s, Request request) {
  const cudaError_t sticky = Sticky(R().gpus[s->device]);
  if (sticky != cudaSuccess) return sticky;
  if (s->capture == nullptr) {
    Append(s, std::move(request));
    return cudaSuccess;
  }
  if (request.again == nullptr) {
    if (request.ready != nullptr) return Failed(cudaErrorStreamCaptureUnsupported);
    request.again =
        [make = std::move(request.make)](CUstream_st* at)
            ABSL_NO_THREAD_SAFETY_ANALYSIS { return EnqueueLocked(at, {.make = make}); };
  }
  std::vector<Node>& nodes = s->capture->nodes;
  nodes.push_back({std::move(request.again), s->last_nodes, s->branch});
  s->last_nodes = {nodes.size() - 1};
  return cudaSuccess;
}

cudaError_t Enqueue(cudaStream_t stream, Request request) {
  MutexLock lock(&R().mutex);
  return EnqueueLocked(Resolve(stream), std::move(request));
}

void BeginDriving() {
  ++R().waiting;
  while (R().driven) R().changed.Wait(&R().mutex);
  --R().waiting;
  R().driven = true;
}

void EndDriving() {
  R().driven = false;
  R().changed.SignalAll();
}

void DriveOne(const Mark& mark) {
  R().asked_at = MonotonicNow();
  if (R().driven) return;
  std::set<const CUstream_st*> asked;
  CUstream_st* next = NextNeeded(mark, &asked);
  // GPUs get there by themselves, whatever their host threads do.
  if (next == nullptr && MeetsOthers(mark)) next = NextOfAny();
  if (next == nullptr) return;
  R().driven = true;
  RunFirst(next);
  EndDriving();
}

void DriveTo(const Mark& mark) {
  while (!Reached(mark)) {
    BeginDriving();
    CUstream_st* next = Reached(mark) ? nullptr : Next(mark);
    if (next != nullptr) RunFirst(next);
    EndDriving();
    if (next != nullptr || Reached(mark)) continue;
    const bool in_vain = R().changed.WaitWithTimeout(&R().mutex, Patience());
    if (in_vain && !Reached(mark) && !R().driven && !emulation::Executing()) {
      R().gpus[mark.stream->device].report =
          "streams wait for each other, or for an operation that nobody enqueues";
      mark.stream->queue.clear();
      mark.stream->done = mark.stream->enqueued;
      return;
    }
  }
}

void Reset() {
  MutexLock lock(&R().mutex);
  BeginDriving();
  emulation::Abandon();
  for (Gpu& gpu : R().gpus) gpu.report.clear();
  for (const auto& s : R().streams) {
    s->queue.clear();
    s->busy = false;
    s->done = s->enqueued;
    s->capture.reset();
    s->last_nodes.clear();
    Note(&R().host_seen, *s, s->enqueued);
  }
  EndDriving();
}

}  // namespace tessera::simt::fake

using namespace tessera::simt::fake;  // NOLINT: these functions are in no namespace by contract

TESSERA_CUDA_API_BEGIN
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
  tessera::MutexLock lock(&R().mutex);
  Resolve(nullptr);  // the default stream is the first of its GPU
  *stream = NewStream(CurrentDevice());
  return Sticky(R().gpus[CurrentDevice()]);
}

cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  if (stream == nullptr) return Failed(cudaErrorInvalidResourceHandle);
  // CUDA lets its work go on; here nobody could wait for it any more.
  const cudaError_t error = cudaStreamSynchronize(stream);
  tessera::MutexLock lock(&R().mutex);
  Gpu& gpu = R().gpus[stream->device];
  std::erase(gpu.streams, stream);
  gpu.unused.push_back(stream);
  return error;
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  tessera::MutexLock lock(&R().mutex);
  CUstream_st* s = Resolve(stream);
  if (s->capture != nullptr) return Failed(cudaErrorStreamCaptureUnsupported);
  const std::vector<uint64_t> seen = s->seen;
  DriveTo({s, s->enqueued});
  Merge(&R().host_seen, seen);
  return Sticky(R().gpus[s->device]);
}

cudaError_t cudaStreamQuery(cudaStream_t stream) {
  tessera::MutexLock lock(&R().mutex);
  CUstream_st* s = Resolve(stream);
  if (s->capture != nullptr) return Failed(cudaErrorStreamCaptureUnsupported);
  const Mark mark{s, s->enqueued};
  const std::vector<uint64_t> seen = s->seen;
  DriveOne(mark);
  if (s->done < mark.sequence) return cudaErrorNotReady;
  Merge(&R().host_seen, seen);
  return Sticky(R().gpus[s->device]);
}

TESSERA_CUDA_API_END
