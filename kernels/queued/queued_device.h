// A device for tests whose queue really is late and whose memory the host cannot touch.
#ifndef TESSERA_KERNELS_QUEUED_QUEUED_DEVICE_H_
#define TESSERA_KERNELS_QUEUED_QUEUED_DEVICE_H_

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <random>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/functional/any_invocable.h"
#include "absl/synchronization/mutex.h"
#include "kernels/core/device.h"
#include "kernels/core/host_queue.h"

namespace tessera {

// Download() fills host memory with this byte at once and with the data when the queue gets there.
inline constexpr unsigned char kQueuedPoison = 0xA5;

// Two address ranges of one size. Addresses handed out lie in a range that is never accessible; the
// data lie at the same offset of the other one. Offsets are not used twice, and freed pages become
// inaccessible again, so an access after the free or beyond the last page faults too.
class ShadowedMemory {
 public:
  ShadowedMemory();
  ~ShadowedMemory();
  ShadowedMemory(const ShadowedMemory&) = delete;
  ShadowedMemory& operator=(const ShadowedMemory&) = delete;

  absl::StatusOr<void*> Allocate(size_t bytes);
  void Free(void* device, size_t bytes);
  // Where the data of a device address are; null stays null.
  void* Translate(const void* device) const;

 private:
  char* handed_out_ = nullptr;
  char* storage_ = nullptr;
  size_t used_ = 0;
};

class QueuedDevice : public Device, private HostQueue {
 public:
  // Work is as late as chance wants. With a `step_delay` it begins at once instead, and EndStep()
  // takes that long: a device whose speed does not depend on the host.
  explicit QueuedDevice(absl::Duration step_delay = absl::ZeroDuration());
  // Executes what is queued.
  ~QueuedDevice() override;

  void Upload(void* device, const void* host, size_t bytes) override;
  void Download(void* host, const void* device, size_t bytes) override;
  uint64_t Record() override;
  absl::Status Wait(uint64_t mark, absl::Duration limit) override;
  absl::Duration idle_time() const override;
  void EndStep();
  // Its Access() CHECKs that a function of its Run() calls it.
  HostQueue* host_queue() override { return this; }

  // Calls of Upload and Download so far.
  struct Transfers {
    int64_t uploads = 0;
    int64_t downloads = 0;
  };
  const Transfers& transfers() const { return transfers_; }

  // Executed on the queue's thread in order; skipped when something failed before.
  void Enqueue(absl::AnyInvocable<absl::Status()> work);
  // The same, but executed whatever happened before.
  void EnqueueRelease(absl::AnyInvocable<void()> release);
  void* Translate(const void* device) const { return memory_.Translate(device); }

 protected:
  absl::StatusOr<void*> AllocateBytes(size_t bytes) override;
  void FreeBytes(void* device, size_t bytes) override;

 private:
  void Run(std::function<absl::Status()> work) override;
  void* Access(void* device) override;
  void QueueLoop();
  // Until there is work; false: there will be none.
  bool AwaitWork();
  void Push(absl::AnyInvocable<void()> item);
  bool HasFailed();
  bool HasWork() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return stop_ || !queue_.empty(); }

  const absl::Duration step_delay_;
  ShadowedMemory memory_;
  mutable absl::Mutex mutex_;
  std::deque<absl::AnyInvocable<void()>> queue_ ABSL_GUARDED_BY(mutex_);
  uint64_t pushed_ ABSL_GUARDED_BY(mutex_) = 0;  // items, ever
  uint64_t executed_ ABSL_GUARDED_BY(mutex_) = 0;
  absl::Duration idle_time_ ABSL_GUARDED_BY(mutex_);
  bool stop_ ABSL_GUARDED_BY(mutex_) = false;
  absl::Status status_ ABSL_GUARDED_BY(mutex_);
  std::minstd_rand delays_{1};  // queue thread only
  bool in_transport_ = false;   // queue thread only: inside a function of Run
  Transfers transfers_;         // of the thread that drives the device
  std::thread thread_;
};

}  // namespace tessera

#endif  // TESSERA_KERNELS_QUEUED_QUEUED_DEVICE_H_
