// Devices for tests of parallel/: host memory behind addresses that crash when they are used
// without Access(), and a queue that runs at once or on a thread of its own.
#ifndef TESSERA_TESTS_PARALLEL_TEST_DEVICE_H_
#define TESSERA_TESTS_PARALLEL_TEST_DEVICE_H_

#include <sys/mman.h>

#include <condition_variable>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <mutex>
#include <new>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "kernels/core/device.h"
#include "kernels/core/host_queue.h"
#include "kernels/core/status_macros.h"

namespace tessera {

class TestDevice : public Device, private HostQueue {
 public:
  enum class Queue { kImmediate, kThread };

  explicit TestDevice(Queue queue = Queue::kImmediate) : queued_(queue == Queue::kThread) {
    if (queued_) worker_ = std::thread([this] { Work(); });
  }
  ~TestDevice() override {
    if (!queued_) return;
    {
      const std::lock_guard lock(mutex_);
      stopping_ = true;
    }
    changed_.notify_all();
    worker_.join();
  }

  void Upload(void* device, const void* host, size_t bytes) override {
    const auto* begin = static_cast<const char*>(host);
    Run([this, device, copy = std::vector<char>(begin, begin + bytes)] {
      if (!copy.empty()) std::memcpy(Access(device), copy.data(), copy.size());
      return absl::OkStatus();
    });
  }
  void Download(void* host, const void* device, size_t bytes) override {
    Run([this, host, device, bytes] {
      if (bytes > 0) std::memcpy(host, HostQueue::Access(device), bytes);
      return absl::OkStatus();
    });
  }
  uint64_t Record() override { return 0; }
  // Waits for everything, whatever the mark.
  absl::Status Wait(uint64_t /*mark*/, absl::Duration /*limit*/) override {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return queue_.empty() && !running_; });
    return status_;
  }
  HostQueue* host_queue() override { return this; }

  int64_t bytes_allocated() const { return bytes_allocated_; }

 protected:
  // Pages take memory when they are touched, so tests may allocate more than the machine has.
  absl::StatusOr<void*> AllocateBytes(size_t bytes) override {
    bytes_allocated_ += static_cast<int64_t>(bytes);
    if (bytes < kMapped) {
      void* memory = ::operator new(bytes, std::align_val_t(64));
      std::memset(memory, 0, bytes);
      return Access(memory);
    }
    void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) return absl::ResourceExhaustedError("mmap failed");
    return Access(memory);
  }
  void FreeBytes(void* device, size_t bytes) override {
    Synchronize().IgnoreError();  // after queued work
    bytes_allocated_ -= static_cast<int64_t>(bytes);
    if (bytes < kMapped) {
      ::operator delete(Access(device), std::align_val_t(64));
    } else {
      munmap(Access(device), bytes);
    }
  }

 private:
  // Nothing runs after the first failure.
  void Run(std::function<absl::Status()> work) override {
    if (!queued_) {
      if (status_.ok()) status_ = work();
      return;
    }
    {
      const std::lock_guard lock(mutex_);
      queue_.push_back(std::move(work));
    }
    changed_.notify_all();
  }
  void* Access(void* device) override {
    return reinterpret_cast<void*>(reinterpret_cast<uintptr_t>(device) ^ kHidden);
  }

  static constexpr uintptr_t kHidden = uintptr_t{1} << 60;
  static constexpr size_t kMapped = size_t{64} << 20;

  void Work() {
    std::unique_lock lock(mutex_);
    for (;;) {
      changed_.wait(lock, [this] { return stopping_ || !queue_.empty(); });
      if (queue_.empty()) return;
      const std::function<absl::Status()> work = std::move(queue_.front());
      queue_.pop_front();
      if (!status_.ok()) {
        changed_.notify_all();
        continue;
      }
      running_ = true;
      lock.unlock();
      absl::Status status = work();
      lock.lock();
      running_ = false;
      status_ = std::move(status);
      changed_.notify_all();
    }
  }

  const bool queued_;
  int64_t bytes_allocated_ = 0;  // by the thread that drives the device
  std::mutex mutex_;             // guards what follows
  std::condition_variable changed_;
  std::deque<std::function<absl::Status()>> queue_;
  absl::Status status_;
  bool stopping_ = false;
  bool running_ = false;
  std::thread worker_;
};

// A tensor that owns its memory, filled from and read back to vectors.
template <typename T>
class TestTensor {
 public:
  TestTensor(Device* device, DType dtype, std::initializer_list<int64_t> dims)
      : device_(device), view_(nullptr, dtype, dims) {
    absl::StatusOr<DeviceBuffer> buffer = device->Allocate(view_.num_bytes(), "test tensor");
    TESSERA_CHECK(buffer.ok() && sizeof(T) == SizeOf(dtype));
    buffer_ = *std::move(buffer);
    view_ = buffer_.View(dtype, dims);
  }
  TestTensor(Device* device, DType dtype, std::initializer_list<int64_t> dims,
             const std::vector<T>& values)
      : TestTensor(device, dtype, dims) {
    Set(values);
  }

  // In memory of somebody else.
  TestTensor(Device* device, TensorView view, const std::vector<T>& values)
      : device_(device), view_(view) {
    Set(values);
  }

  TensorView view() const { return view_; }
  void Set(const std::vector<T>& values) {
    TESSERA_CHECK(static_cast<int64_t>(values.size() * sizeof(T)) == view_.num_bytes());
    device_->Upload(view_.data(), values.data(), values.size() * sizeof(T));
  }
  // Empty when the device failed.
  std::vector<T> Get() const {
    std::vector<T> values(view_.num_elements());
    device_->Download(values.data(), view_.data(), values.size() * sizeof(T));
    if (!device_->Synchronize().ok()) values.clear();
    return values;
  }

 private:
  Device* device_;
  DeviceBuffer buffer_;
  TensorView view_;
};

}  // namespace tessera

#endif  // TESSERA_TESTS_PARALLEL_TEST_DEVICE_H_
