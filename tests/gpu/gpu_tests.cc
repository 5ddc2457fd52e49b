// gpu_tests [GoogleTest's options]: the tests of kernels and models that run on every linked
// backend, in one program for the bundle (bundle.sh).
#include <gtest/gtest.h>

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
