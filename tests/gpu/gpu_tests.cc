// gpu_tests [GoogleTest's options]: the tests of kernels and models that run on every linked
// backend, in one program for the bundle (bundle.sh). gpu_tests --shares: kernel_shares.h.
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "tests/gpu/kernel_shares.h"

int main(int argc, char** argv) {
  const std::vector<std::string> arguments(argv + 1, argv + argc);
  if (!arguments.empty() && arguments[0] == "--shares") {
    return tessera::test::RunKernelShares(arguments);
  }
  testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
