// gpu_self_test --facts FILE: what the machine has (device_facts.h).
// gpu_self_test [GoogleTest's options]: every instruction of kernels/cuda/simt/ptx.h on the GPU,
// against the same expectation as on the emulator; 77 without a GPU.
#include <gtest/gtest.h>

#include <cstdio>
#include <string>

#include "kernels/cuda/cuda_error.h"
#include "tests/gpu/device_facts.h"

int main(int argc, char** argv) {
  if (argc == 3 && std::string(argv[1]) == "--facts") return tessera::WriteDeviceFacts(argv[2]);
  testing::InitGoogleTest(&argc, argv);
  const absl::Status status = tessera::cuda::CheckGpu(0);
  if (!status.ok() && !testing::GTEST_FLAG(list_tests)) {
    std::fprintf(stderr, "%s\n", std::string(status.message()).c_str());
    return tessera::kExitNoGpu;
  }
  return RUN_ALL_TESTS();
}
