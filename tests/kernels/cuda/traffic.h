// Bytes that operations move to and from the memory of a GPU, as the emulator counts them, against
// the fewest that they could: every input once, every output once.
#ifndef TESSERA_TESTS_KERNELS_CUDA_TRAFFIC_H_
#define TESSERA_TESTS_KERNELS_CUDA_TRAFFIC_H_

#include <gtest/gtest.h>

#include <functional>
#include <memory>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "kernels/cuda/emulation/emulator.h"
#include "tests/kernels/cuda/moved_bytes.h"
#include "tests/kernels/op_test.h"

namespace tessera::test {

// Most that may be moved, of the fewest bytes.
struct Percent {
  double f32;
  double bf16;
};

class TrafficTest : public OpTest {
 protected:
  int64_t size() const { return act() == DType::kF32 ? 4 : 2; }  // of one activation or weight

  TestTensor Random(std::vector<int64_t> dims) {
    const int64_t count =
        std::accumulate(dims.begin(), dims.end(), int64_t{1}, std::multiplies<>());
    return TestTensor(device(), act(), std::move(dims), Activations(random_, count));
  }
  TestTensor Floats(int64_t count) {
    return TestTensor(device(), DType::kF32, {count}, random_.Normals(count));
  }
  TestTensor Ascending(std::vector<int64_t> dims) {  // 0, 1, 2 ...
    const int64_t count =
        std::accumulate(dims.begin(), dims.end(), int64_t{1}, std::multiplies<>());
    std::vector<int32_t> values(static_cast<size_t>(count));
    std::iota(values.begin(), values.end(), 0);
    return TestTensor::Ints(device(), std::move(dims), values);
  }
  std::unique_ptr<Weight> RandomWeight(int64_t rows, int64_t cols) {
    return Prepare(Weights(random_, rows * cols, 0.2F), rows, cols);
  }

  // Runs an operation that could do with `fewest` bytes; it may move `limit` percent of them. Banks
  // of shared memory never conflict.
  template <typename Operation>
  void ExpectTraffic(int64_t fewest, Percent limit, const Operation& operation) {
    ASSERT_TRUE(device().Synchronize().ok());
    const simt::emulation::Statistics before = simt::emulation::Counters();
    const uint64_t moved_before = MovedBytes();
    operation();
    ASSERT_TRUE(device().Synchronize().ok());
    const simt::emulation::Statistics& after = simt::emulation::Counters();
    const uint64_t bytes = MovedBytes() - moved_before;
    const double percent = 100.0 * static_cast<double>(bytes) / static_cast<double>(fewest);
    EXPECT_GE(percent, 100) << "not everything is counted";
    EXPECT_LE(percent, act() == DType::kF32 ? limit.f32 : limit.bf16) << bytes << " bytes";
    EXPECT_EQ(after.ldmatrix_conflicts, before.ldmatrix_conflicts);
    RecordProperty("percent", std::to_string(percent));
  }

  test::Random random_{1};
};

inline std::vector<BackendCase> EmulatedGpus() {
  std::vector<BackendCase> cases;
  for (const BackendCase& backend : AllBackends()) {
    if (backend.backend == "cuda-emulated") cases.push_back(backend);
  }
  return cases;
}
#define TESSERA_TRAFFIC_SUITE(suite)                                               \
  INSTANTIATE_TEST_SUITE_P(EmulatedGpus, suite, testing::ValuesIn(EmulatedGpus()), \
                           [](const auto& test_case) { return CaseName(test_case.param); })

}  // namespace tessera::test

#endif  // TESSERA_TESTS_KERNELS_CUDA_TRAFFIC_H_
