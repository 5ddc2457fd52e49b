// An array in the memory of an emulated GPU, for tests of launchers.
#ifndef TESSERA_TESTS_KERNELS_CUDA_GPU_ARRAY_H_
#define TESSERA_TESTS_KERNELS_CUDA_GPU_ARRAY_H_

#include <cuda_runtime.h>
#include <gtest/gtest.h>

#include <cstddef>
#include <vector>

namespace tessera {

template <typename T>
class GpuArray {
 public:
  // Not written yet: reading it is an error.
  explicit GpuArray(size_t size) : size_(size) {
    EXPECT_EQ(cudaMalloc(reinterpret_cast<void**>(&data_), size * sizeof(T)), cudaSuccess);
  }
  explicit GpuArray(const std::vector<T>& values) : GpuArray(values.size()) {
    EXPECT_EQ(cudaMemcpy(data_, values.data(), size_ * sizeof(T), cudaMemcpyHostToDevice),
              cudaSuccess);
  }
  ~GpuArray() { cudaFree(data_); }
  GpuArray(const GpuArray&) = delete;
  GpuArray& operator=(const GpuArray&) = delete;

  T* get() const { return data_; }
  size_t size() const { return size_; }
  // Waits for the default stream.
  std::vector<T> Values() const {
    std::vector<T> values(size_);
    cudaMemcpy(values.data(), data_, size_ * sizeof(T), cudaMemcpyDeviceToHost);
    return values;
  }

 private:
  T* data_ = nullptr;
  size_t size_;
};

}  // namespace tessera

#endif  // TESSERA_TESTS_KERNELS_CUDA_GPU_ARRAY_H_
