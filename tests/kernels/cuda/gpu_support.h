// What tests ask the current GPU, real or emulated.
#ifndef TESSERA_TESTS_KERNELS_CUDA_GPU_SUPPORT_H_
#define TESSERA_TESTS_KERNELS_CUDA_GPU_SUPPORT_H_

#include <cuda_runtime.h>
#include <gtest/gtest.h>

namespace tessera {

// Whether the kernels so far have ended well; on emulated GPUs also without a report.
inline testing::AssertionResult Ended() {
  const cudaError_t error = cudaDeviceSynchronize();
  if (error == cudaSuccess) return testing::AssertionSuccess();
  return testing::AssertionFailure() << cudaGetErrorString(error);
}

// Ten times the major number plus the minor one.
inline int ComputeCapability() {
  int major = 0;
  int minor = 0;
  EXPECT_EQ(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, 0), cudaSuccess);
  EXPECT_EQ(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, 0), cudaSuccess);
  return 10 * major + minor;
}

}  // namespace tessera

#endif  // TESSERA_TESTS_KERNELS_CUDA_GPU_SUPPORT_H_
