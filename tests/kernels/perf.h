// Measuring instead of testing.
#ifndef TESSERA_TESTS_KERNELS_PERF_H_
#define TESSERA_TESTS_KERNELS_PERF_H_

#include <string>
#include <vector>

namespace tessera::test {

// Prints one line per operation and shape; returns the process's exit code.
int RunPerf(const std::vector<std::string>& arguments);

}  // namespace tessera::test

#endif  // TESSERA_TESTS_KERNELS_PERF_H_
