// What the emulator says of instructions that are used wrongly.
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "kernels/cuda/emulation/emulator.h"
#include "kernels/cuda/fake/emulated_gpus.h"
#include "tests/kernels/cuda/gpu_array.h"
#include "tests/kernels/cuda/instructions.h"

namespace tessera {

// A copy of instructions.cu without a barrier (kernel_control.cmake).
namespace cuda::ldmatrix_too_early {
cudaError_t LdMatrixTile(cudaStream_t stream, bool trans, const uint16_t* matrices, uint32_t* out);
}  // namespace cuda::ldmatrix_too_early

namespace {

namespace emulation = simt::emulation;

TEST(EmulatedInstructions, ABugInACopyOfAKernelIsReported) {
  for (uint64_t seed = 1; seed <= 10; ++seed) {
    emulation::Options options;
    options.seed = seed;
    emulation::SetOptions(options);
    GpuArray<uint16_t> in(std::vector<uint16_t>(256));
    GpuArray<uint32_t> out(128);
    ASSERT_EQ(cuda::ldmatrix_too_early::LdMatrixTile(nullptr, false, in.get(), out.get()),
              cudaSuccess);
    EXPECT_EQ(cudaDeviceSynchronize(), cudaErrorLaunchFailure);
    EXPECT_NE(simt::fake::AnyReport().find("LdMatrixKernel: "), std::string::npos);
    simt::fake::Reset();
  }
  emulation::SetOptions(emulation::OptionsFromEnvironment());
}

TEST(EmulatedInstructions, OfAnotherArchitectureAreRefused) {
  emulation::Options options;
  options.compute_capability = 80;
  emulation::SetOptions(options);
  GpuArray<float> out(64 * 128);
  const cuda::WgmmaMaps maps{};  // never looked at
  ASSERT_EQ(cuda::WgmmaTile(nullptr, 128, maps, out.get()), cudaSuccess);
  EXPECT_EQ(cudaDeviceSynchronize(), cudaErrorLaunchFailure);
  EXPECT_NE(simt::fake::AnyReport().find("an mbarrier needs sm_90; this GPU is an sm_80"),
            std::string::npos)
      << simt::fake::AnyReport();
  simt::fake::Reset();
  emulation::SetOptions(emulation::OptionsFromEnvironment());
}

}  // namespace
}  // namespace tessera
