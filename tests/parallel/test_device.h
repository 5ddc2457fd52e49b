// Devices for tests of parallel/: host memory behind addresses that crash when they are used
// without Access(), and a queue that runs at once or on a thread of its own.
#ifndef TESSERA_TESTS_PARALLEL_TEST_DEVICE_H_
#define TESSERA_TESTS_PARALLEL_TEST_DEVICE_H_

#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <new>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "kernels/core/device.h"
#include "kernels/core/status_macros.h"

namespace tessera {

class TestDevice : public Device {
 public:
  enum class Queue { kImmediate, kThread };

  explicit TestDevice(Queue queue = Queue::kImmediate) : queued_(queue == Queue::kThread) {
    if (queued_) worker_ = std::thread([this] { Work(); });
  }
  ~TestDevice() override {
    if (!queued_) return;
    {
      absl::MutexLock lock(&mutex_);
      stopping_ = true;
    }
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
      if (bytes > 0) std::memcpy(host, static_cast<Device*>(this)->Access(device), bytes);
      return absl::OkStatus();
    });
  }
  absl::Status Synchronize() override {
    absl::MutexLock lock(&mutex_);
    mutex_.Await(absl::Condition(
        +[](TestDevice* self) {
          self->mutex_.AssertHeld();
          return self->queue_.empty() && !self->running_;
        },
        this));
    return status_;
  }
  void Run(std::function<absl::Status()> work) override {
    if (!queued_) {
      Keep(work());
      return;
    }
    absl::MutexLock lock(&mutex_);
    queue_.push_back(std::move(work));
  }
  void* Access(void* device) override {
    return reinterpret_cast<void*>(reinterpret_cast<uintptr_t>(device) ^ kHidden);
  }

 protected:
  absl::StatusOr<void*> AllocateBytes(size_t bytes) override {
    void* memory = ::operator new(bytes, std::align_val_t(64));
    std::memset(memory, 0, bytes);
    return Access(memory);
  }
  void FreeBytes(void* device, size_t) override {
    ::operator delete(Access(device), std::align_val_t(64));
  }

 private:
  static constexpr uintptr_t kHidden = uintptr_t{1} << 60;

  void Keep(const absl::Status& status) {
    absl::MutexLock lock(&mutex_);
    if (status_.ok()) status_ = status;
  }
  void Work() {
    for (;;) {
      std::function<absl::Status()> work;
      {
        absl::MutexLock lock(&mutex_);
        running_ = false;
        mutex_.Await(absl::Condition(
            +[](TestDevice* self) {
              self->mutex_.AssertHeld();
              return self->stopping_ || !self->queue_.empty();
            },
            this));
        if (queue_.empty()) return;
        work = std::move(queue_.front());
        queue_.pop_front();
        running_ = true;
      }
      Keep(work());
    }
  }

  const bool queued_;
  absl::Mutex mutex_;
  std::deque<std::function<absl::Status()>> queue_ ABSL_GUARDED_BY(mutex_);
  absl::Status status_ ABSL_GUARDED_BY(mutex_);
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  bool running_ ABSL_GUARDED_BY(mutex_) = false;
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
