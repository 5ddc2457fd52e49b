#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "tests/kernels/perf.h"

int main(int argc, char** argv) {
  const std::vector<std::string> arguments(argv + 1, argv + argc);
  if (!arguments.empty() && arguments[0] == "--perf") return tessera::test::RunPerf(arguments);
  testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
