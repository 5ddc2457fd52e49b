// Arrays in the memory of an emulated GPU between guard regions, for tests of launchers.
#ifndef TESSERA_TESTS_KERNELS_CUDA_GUARDED_ARRAY_H_
#define TESSERA_TESTS_KERNELS_CUDA_GUARDED_ARRAY_H_

#include <cuda_runtime.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <vector>

#include "tests/kernels/cuda/gpu_array.h"

namespace tessera::test {

// Waits for the device; what it reports fails the test.
inline void ExpectDeviceOk() {
  const cudaError_t error = cudaDeviceSynchronize();
  EXPECT_EQ(error, cudaSuccess) << cudaGetErrorString(error);
}

template <typename T>
class GuardedArray {
 public:
  // `offset`: elements by which the first one misses the alignment of device memory.
  explicit GuardedArray(const std::vector<T>& values, size_t offset = 0)
      : offset_(kGuard + offset),
        size_(values.size()),
        expected_(Surrounded(values, offset_)),
        memory_(expected_) {}
  // Every byte is 0xFF: NaN as a float.
  static GuardedArray Poisoned(size_t size, size_t offset = 0) {
    return GuardedArray(Poison(size), offset);
  }

  T* data() const { return memory_.get() + offset_; }

  // The values; the guards must be as they were.
  std::vector<T> Get() const {
    const std::vector<T> all = Everything();
    const size_t end = offset_ + size_;
    EXPECT_TRUE(Same(all, 0, offset_)) << "written before the array";
    EXPECT_TRUE(Same(all, end, all.size())) << "written behind the array";
    return {all.begin() + static_cast<ptrdiff_t>(offset_),
            all.begin() + static_cast<ptrdiff_t>(end)};
  }
  void ExpectUnchanged() const { EXPECT_TRUE(Same(Everything(), 0, expected_.size())); }

 private:
  static constexpr size_t kGuard = 256 / sizeof(T);

  static std::vector<T> Poison(size_t size) {
    std::vector<T> values(size);
    if (size > 0) std::memset(values.data(), 0xFF, size * sizeof(T));
    return values;
  }
  static std::vector<T> Surrounded(const std::vector<T>& values, size_t offset) {
    std::vector<T> all = Poison(offset + values.size() + kGuard);
    std::copy(values.begin(), values.end(), all.begin() + static_cast<ptrdiff_t>(offset));
    return all;
  }
  std::vector<T> Everything() const {
    ExpectDeviceOk();
    return memory_.Values();
  }
  bool Same(const std::vector<T>& all, size_t begin, size_t end) const {
    return std::memcmp(all.data() + begin, expected_.data() + begin, (end - begin) * sizeof(T)) ==
           0;
  }

  size_t offset_;
  size_t size_;
  std::vector<T> expected_;
  GpuArray<T> memory_;
};

}  // namespace tessera::test

#endif  // TESSERA_TESTS_KERNELS_CUDA_GUARDED_ARRAY_H_
