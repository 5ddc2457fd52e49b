#include "kernels/queued/queued_device.h"

#include <sys/mman.h>

#include <chrono>
#include <cstring>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/core/monotonic_time.h"
#include "kernels/core/status_macros.h"

namespace tessera {
namespace {

constexpr size_t kRangeBytes = size_t{32} << 30;
constexpr size_t kPage = 4096;
constexpr int kLongestDelayMicroseconds = 200;

char* Reserve() {
  void* range =
      mmap(nullptr, kRangeBytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  return range == MAP_FAILED ? nullptr : static_cast<char*>(range);
}

size_t WholePages(size_t bytes) { return (bytes + kPage - 1) / kPage * kPage; }

}  // namespace

ShadowedMemory::ShadowedMemory() : handed_out_(Reserve()), storage_(Reserve()) {}

ShadowedMemory::~ShadowedMemory() {
  if (handed_out_ != nullptr) munmap(handed_out_, kRangeBytes);
  if (storage_ != nullptr) munmap(storage_, kRangeBytes);
}

absl::StatusOr<void*> ShadowedMemory::Allocate(size_t bytes) {
  if (handed_out_ == nullptr || storage_ == nullptr) {
    return absl::ResourceExhaustedError("the test device could not reserve its address range");
  }
  // One page behind each allocation stays inaccessible.
  if (bytes > kRangeBytes || WholePages(bytes) + kPage > kRangeBytes - used_) {
    return absl::ResourceExhaustedError("the address range of the test device is used up");
  }
  if (mprotect(storage_ + used_, WholePages(bytes), PROT_READ | PROT_WRITE) != 0) {
    return absl::ResourceExhaustedError("the operating system refused the memory");
  }
  void* device = handed_out_ + used_;
  used_ += WholePages(bytes) + kPage;
  return device;
}

void ShadowedMemory::Free(void* device, size_t bytes) {
  void* data = Translate(device);
  madvise(data, WholePages(bytes), MADV_DONTNEED);
  mprotect(data, WholePages(bytes), PROT_NONE);
}

void* ShadowedMemory::Translate(const void* device) const {
  if (device == nullptr) return nullptr;
  const auto address = reinterpret_cast<uintptr_t>(device);
  const auto begin = reinterpret_cast<uintptr_t>(handed_out_);
  TESSERA_CHECK(address >= begin && address < begin + kRangeBytes);
  return storage_ + (address - begin);
}

QueuedDevice::QueuedDevice(absl::Duration step_delay)
    : step_delay_(step_delay), thread_([this] { QueueLoop(); }) {}

QueuedDevice::~QueuedDevice() {
  {
    absl::MutexLock lock(&mutex_);
    stop_ = true;
  }
  thread_.join();
}

bool QueuedDevice::AwaitWork() {
  const auto idle_since = std::chrono::steady_clock::now();
  absl::MutexLock lock(&mutex_);
  const bool idles = !HasWork();
  mutex_.Await(absl::Condition(this, &QueuedDevice::HasWork));
  if (queue_.empty()) return false;
  if (idles) idle_time_ += absl::FromChrono(std::chrono::steady_clock::now() - idle_since);
  return true;
}

absl::Duration QueuedDevice::idle_time() const {
  absl::MutexLock lock(&mutex_);
  return idle_time_;
}

void QueuedDevice::EndStep() {
  if (step_delay_ == absl::ZeroDuration()) return;
  Enqueue([delay = absl::ToChronoMicroseconds(step_delay_)] {
    std::this_thread::sleep_for(delay);
    return absl::OkStatus();
  });
}

void QueuedDevice::QueueLoop() {
  while (true) {
    if (!AwaitWork()) return;
    // Whoever relies on work being done at once, or late, is wrong now and then.
    if (step_delay_ == absl::ZeroDuration()) {
      std::this_thread::sleep_for(
          std::chrono::microseconds(delays_() % (kLongestDelayMicroseconds + 1)));
    }
    std::deque<absl::AnyInvocable<void()>> batch;
    {
      absl::MutexLock lock(&mutex_);
      batch.swap(queue_);
    }
    for (absl::AnyInvocable<void()>& item : batch) {
      item();
      absl::MutexLock lock(&mutex_);
      ++executed_;
    }
  }
}

void QueuedDevice::Push(absl::AnyInvocable<void()> item) {
  absl::MutexLock lock(&mutex_);
  queue_.push_back(std::move(item));
  ++pushed_;
}

bool QueuedDevice::HasFailed() {
  absl::MutexLock lock(&mutex_);
  return !status_.ok();
}

void QueuedDevice::Enqueue(absl::AnyInvocable<absl::Status()> work) {
  Push([this, work = std::move(work)]() mutable {
    if (HasFailed()) return;
    const absl::Status status = work();
    absl::MutexLock lock(&mutex_);
    status_.Update(status);
  });
}

void QueuedDevice::EnqueueRelease(absl::AnyInvocable<void()> release) { Push(std::move(release)); }

void QueuedDevice::Upload(void* device, const void* host, size_t bytes) {
  ++transfers_.uploads;
  const char* begin = static_cast<const char*>(host);
  Enqueue([this, device, data = std::vector<char>(begin, begin + bytes)] {
    if (!data.empty()) std::memcpy(Translate(device), data.data(), data.size());
    return absl::OkStatus();
  });
}

void QueuedDevice::Download(void* host, const void* device, size_t bytes) {
  if (bytes == 0) return;
  ++transfers_.downloads;
  std::memset(host, kQueuedPoison, bytes);
  Enqueue([this, host, device, bytes] {
    std::memcpy(host, Translate(device), bytes);
    return absl::OkStatus();
  });
}

uint64_t QueuedDevice::Record() {
  absl::MutexLock lock(&mutex_);
  return pushed_;
}

absl::Status QueuedDevice::Wait(uint64_t mark, absl::Duration limit) {
  absl::MutexLock lock(&mutex_);
  const auto done = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return executed_ >= mark; };
  if (!AwaitFor(&mutex_, absl::Condition(&done), limit)) {
    return absl::DeadlineExceededError("the device is still at work");
  }
  return status_;
}

void QueuedDevice::Run(std::function<absl::Status()> work) {
  Enqueue([this, work = std::move(work)] {
    in_transport_ = true;
    absl::Status status = work();
    in_transport_ = false;
    return status;
  });
}

void* QueuedDevice::Access(void* device) {
  TESSERA_CHECK(std::this_thread::get_id() == thread_.get_id() && in_transport_);
  return Translate(device);
}

absl::StatusOr<void*> QueuedDevice::AllocateBytes(size_t bytes) { return memory_.Allocate(bytes); }

void QueuedDevice::FreeBytes(void* device, size_t bytes) {
  EnqueueRelease([this, device, bytes] { memory_.Free(device, bytes); });
}

}  // namespace tessera
