#include "tests/kernels/cuda/smoke.h"

#include "kernels/cuda/fake/emulated_gpus.h"
#include "tests/kernels/cuda/gpu_array.h"
namespace tessera {
TEST(Smoke, Sum) {
  std::vector<float> v(1000);
  for (int i = 0; i < 1000; ++i) v[i] = i;
  GpuArray<float> in(v), out(256);
  ASSERT_EQ(cuda::Sum(nullptr, 0, in.get(), out.get(), 1000), cudaSuccess);
  auto r = out.Values();
  EXPECT_EQ(simt::fake::AnyReport(), "");
  EXPECT_EQ(r[5], 499500.0F);
}
TEST(Smoke, Bug) {
  GpuArray<float> in(std::vector<float>(1000, 1.0F)), out(256);
  ASSERT_EQ(cuda::Sum(nullptr, 1, in.get(), out.get(), 1000), cudaSuccess);
  EXPECT_EQ(cudaDeviceSynchronize(), cudaErrorLaunchFailure);
  std::cout << cudaGetErrorString(cudaErrorLaunchFailure) << "\n";
  EXPECT_NE(simt::fake::AnyReport(), "");
  simt::fake::Reset();
  ASSERT_EQ(cuda::Sum(nullptr, 0, in.get(), out.get(), 1001), cudaSuccess);
  EXPECT_EQ(cudaDeviceSynchronize(), cudaErrorLaunchFailure);
  std::cout << cudaGetErrorString(cudaErrorLaunchFailure) << "\n";
  simt::fake::Reset();
}
}  // namespace tessera
