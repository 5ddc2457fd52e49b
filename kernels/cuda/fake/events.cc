#include <cuda_runtime.h>

#include <chrono>

#include "kernels/cuda/fake/runtime.h"

using namespace tessera::simt::fake;  // NOLINT: these functions are in no namespace by contract

namespace {

double Milliseconds() {
  return std::chrono::duration<double, std::milli>(
             std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

// The stream goes on capturing behind what the event has seen of the same capture, or joins it.
cudaError_t WaitInCapture(CUstream_st* s, const Moment& moment) {
  if (moment.capture == nullptr) return Failed(cudaErrorStreamCaptureIsolation);
  if (s->capture == nullptr) {
    s->capture = moment.capture;
    s->branch = moment.capture->branches.size();
    moment.capture->branches.push_back(s);
    s->last_nodes.clear();
  }
  if (s->capture != moment.capture) return Failed(cudaErrorStreamCaptureIsolation);
  s->last_nodes.insert(s->last_nodes.end(), moment.nodes.begin(), moment.nodes.end());
  return cudaSuccess;
}

}  // namespace

TESSERA_CUDA_API_BEGIN
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned flags) {
  *event = new CUevent_st;
  (*event)->device = CurrentDevice();
  (*event)->timed = (flags & cudaEventDisableTiming) == 0;
  return cudaSuccess;
}

cudaError_t cudaEventDestroy(cudaEvent_t event) {
  delete event;
  return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  tessera::MutexLock lock(&R().mutex);
  CUstream_st* s = Resolve(stream);
  if (s->device != event->device) {
    return Failed(cudaErrorInvalidResourceHandle, "an event of another GPU than the stream's");
  }
  auto moment = std::make_shared<Moment>();
  event->moment = moment;
  if (s->capture != nullptr) {
    moment->capture = s->capture;
    moment->nodes = s->last_nodes;
    return cudaSuccess;
  }
  const cudaError_t error =
      EnqueueLocked(s, {.make = [moment]() -> Run {
                      return [moment](const StreamPosition&, const Ended& ended) {
                        moment->milliseconds = Milliseconds();
                        ended("");
                      };
                    }});
  moment->mark = {s, s->enqueued};
  moment->seen = s->seen;
  return error;
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned) {
  tessera::MutexLock lock(&R().mutex);
  CUstream_st* s = Resolve(stream);
  const std::shared_ptr<Moment> moment = event->moment;
  if (moment == nullptr) return cudaSuccess;
  if (s->capture != nullptr || moment->capture != nullptr) return WaitInCapture(s, *moment);
  Merge(&s->seen, moment->seen);
  return EnqueueLocked(s, {.make = nullptr, .after = moment->mark});
}

cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  tessera::MutexLock lock(&R().mutex);
  const std::shared_ptr<Moment> moment = event->moment;
  if (moment == nullptr) return cudaSuccess;
  if (moment->capture != nullptr) return Failed(cudaErrorStreamCaptureUnsupported);
  DriveTo(moment->mark);
  Merge(&R().host_seen, moment->seen);
  return Sticky(R().gpus[event->device]);
}

cudaError_t cudaEventQuery(cudaEvent_t event) {
  tessera::MutexLock lock(&R().mutex);
  const std::shared_ptr<Moment> moment = event->moment;
  if (moment == nullptr) return cudaSuccess;
  if (moment->capture != nullptr) return Failed(cudaErrorStreamCaptureUnsupported);
  DriveOne(moment->mark);
  if (moment->mark.stream->done < moment->mark.sequence) {
    // What a broken GPU had to do may never end: it may wait for others.
    const cudaError_t sticky = Sticky(R().gpus[event->device]);
    return sticky != cudaSuccess ? sticky : cudaErrorNotReady;
  }
  Merge(&R().host_seen, moment->seen);
  return Sticky(R().gpus[event->device]);
}

cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t begin, cudaEvent_t end) {
  tessera::MutexLock lock(&R().mutex);
  if (!begin->timed || !end->timed || begin->moment == nullptr || end->moment == nullptr) {
    return Failed(cudaErrorInvalidResourceHandle, "an event without timing, or never recorded");
  }
  if (begin->moment->milliseconds < 0 || end->moment->milliseconds < 0) return cudaErrorNotReady;
  *milliseconds = static_cast<float>(end->moment->milliseconds - begin->moment->milliseconds);
  return cudaSuccess;
}

TESSERA_CUDA_API_END
