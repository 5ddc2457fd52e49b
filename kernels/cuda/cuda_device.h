// A GPU as a device: a stream for the rank's work, one for weights, and pinned memory for
// transfers. The same source drives real and emulated GPUs.
#ifndef TESSERA_KERNELS_CUDA_CUDA_DEVICE_H_
#define TESSERA_KERNELS_CUDA_CUDA_DEVICE_H_

#include <cuda_runtime.h>

#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <string_view>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/functional/function_ref.h"
#include "absl/synchronization/mutex.h"
#include "kernels/core/device.h"
#include "kernels/cuda/kernels/fault.h"
#include "kernels/cuda/pinned_pool.h"
#include "kernels/cuda/pinned_ring.h"
#include "kernels/cuda/weight_uploads.h"

namespace tessera::cuda {

// What the work of a device may wait for besides itself: ranks on other GPUs.
class PeerWatch {
 public:
  virtual ~PeerWatch() = default;
  // Asked by every Wait, again and again until its work is done, and then once more. `done`: now
  // it is. Not OK: the device has failed. Any thread, one at a time.
  virtual absl::Status Check(bool done) = 0;
  // Calls enqueue(), which launches a graph that holds operations of the watch, as one operation.
  // By the thread that drives the device.
  virtual void RunGraph(absl::FunctionRef<void()> enqueue) = 0;
};

// 80, 90, ...
inline int CapabilityOf(const cudaDeviceProp& properties) {
  return properties.major * 10 + properties.minor;
}

class CudaDevice : public Device {
 public:
  // INVALID_ARGUMENT when the program cannot use GPU `index`, see CheckGpu.
  static absl::StatusOr<std::unique_ptr<CudaDevice>> Create(int index);
  // Waits for the work.
  ~CudaDevice() override;

  void Upload(void* device, const void* host, size_t bytes) override;
  void Download(void* host, const void* device, size_t bytes) override;
  uint64_t Record() override;
  absl::Status Wait(uint64_t mark, absl::Duration limit) override;
  // By the GPU's clock, of work before marks that were waited for.
  absl::Duration idle_time() const override;
  std::optional<DeviceMemory> memory() const override;

  int index() const { return index_; }
  const cudaDeviceProp& properties() const { return properties_; }
  cudaStream_t stream() const { return stream_; }
  // In device memory: where kernels report impossible data. The device has failed from the Wait on
  // that sees the report.
  Fault* fault() const { return fault_; }

  // Enqueues work: launch() puts it on stream(), with this device current. The device has failed
  // when that fails, or when the work does so later; the status names `operation`, a string
  // literal, or the operations between which the error must have happened. Nothing is launched
  // after a failure.
  void Launch(const char* operation, absl::FunctionRef<cudaError_t()> launch);
  struct Captured {
    cudaGraph_t graph = nullptr;      // the caller's to destroy
    std::vector<PeerWatch*> watches;  // of operations in it
  };
  // What enqueue() launches, as a graph; nothing of it runs. enqueue() may launch and
  // AllocateUncleared, no more. A launch that fails meanwhile ends the capture, and not the device.
  absl::StatusOr<Captured> Capture(absl::FunctionRef<void()> enqueue);
  // For who launches: whether a capture is under way, and that it holds operations of a watch.
  bool capturing() const { return capturing_; }
  void AddToCapture(PeerWatch* watch);
  // The device has failed, unless `status` is OK. Any thread.
  void Fail(const absl::Status& status) ABSL_LOCKS_EXCLUDED(mutex_);

  // Waits ask `watch` until it is removed, after which it is not in use any more. Any thread.
  void AddWatch(PeerWatch* watch) ABSL_LOCKS_EXCLUDED(watches_mutex_);
  void RemoveWatch(PeerWatch* watch) ABSL_LOCKS_EXCLUDED(watches_mutex_);

  // As Allocate, but not cleared. Any thread.
  absl::StatusOr<DeviceBuffer> AllocateUncleared(size_t bytes, std::string_view what);
  // Writes `bytes` bytes at `device` through the copy stream and waits for them: work that is
  // enqueued later sees them. write(memory, begin, n) puts bytes [begin, begin + n) into memory;
  // begin and n are multiples of `unit`, at most WeightUploads::kSegmentBytes. Any thread, several
  // at a time.
  absl::Status WriteNow(void* device, size_t bytes, size_t unit,
                        absl::FunctionRef<void(char*, size_t, size_t)> write);

 protected:
  explicit CudaDevice(int index) : index_(index) {}
  absl::Status Initialize();

  absl::StatusOr<void*> AllocateBytes(size_t bytes) override;
  void FreeBytes(void* device, size_t bytes) override;

 private:
  struct PendingDownload {
    void* host;
    char* pinned;
    size_t bytes;
  };
  // What was enqueued between two Record().
  struct Mark {
    cudaEvent_t begin = nullptr;  // before its first work, if it has any
    cudaEvent_t end = nullptr;
    char* fault = nullptr;  // pinned copy of it
    const char* first_operation = nullptr;
    const char* last_operation = nullptr;
    std::vector<PendingDownload> downloads;
  };

  absl::StatusOr<void*> AllocateMemory(size_t bytes) const;
  // The thread's calls of the runtime go to this device from now on.
  void MakeCurrent() const;
  absl::Status AskWatches(bool done) ABSL_LOCKS_EXCLUDED(watches_mutex_);
  void Fail(cudaError_t error, const char* operation) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Before work is put on the stream. False: the device has failed.
  bool BeginWork(const char* operation) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  cudaError_t EnqueueDownload(void* host, const void* device, size_t bytes)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  cudaError_t EndMark() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Takes the results of all work up to `mark`, which has been done.
  void Complete(uint64_t mark) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void CompleteOldest() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  cudaError_t TakeEvent(cudaEvent_t* event) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const int index_;
  cudaDeviceProp properties_{};
  cudaStream_t stream_ = nullptr;
  cudaStream_t copy_stream_ = nullptr;
  Fault* fault_ = nullptr;
  PinnedRing uploads_;  // of the thread that drives the device
  // A capture is under way, of the same thread; and the last launch in it, which may have failed.
  bool capturing_ = false;
  cudaError_t capture_error_ = cudaSuccess;
  const char* captured_operation_ = nullptr;
  std::vector<PeerWatch*> captured_watches_;

  WeightUploads weights_;  // through the copy stream

  absl::Mutex watches_mutex_;  // held while they are asked; never taken under mutex_
  std::vector<PeerWatch*> watches_ ABSL_GUARDED_BY(watches_mutex_);

  mutable absl::Mutex mutex_;
  absl::Status failure_ ABSL_GUARDED_BY(mutex_);
  Mark next_ ABSL_GUARDED_BY(mutex_);                 // since the last Record()
  std::deque<Mark> pending_ ABSL_GUARDED_BY(mutex_);  // recorded, oldest first
  uint64_t recorded_ ABSL_GUARDED_BY(mutex_) = 0;
  cudaEvent_t last_end_ ABSL_GUARDED_BY(mutex_) = nullptr;  // of the mark completed last
  absl::Duration idle_time_ ABSL_GUARDED_BY(mutex_);
  std::vector<cudaEvent_t> events_ ABSL_GUARDED_BY(mutex_);  // free ones
  PinnedPool results_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace tessera::cuda

#endif  // TESSERA_KERNELS_CUDA_CUDA_DEVICE_H_
