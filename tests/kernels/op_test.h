// The harness of operation tests: every test runs against each linked backend. Tensors lie between
// guard regions, row gaps are poisoned, and whatever an operation did not own is checked after it.
#ifndef TESSERA_TESTS_KERNELS_OP_TEST_H_
#define TESSERA_TESTS_KERNELS_OP_TEST_H_

#include <gtest/gtest.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "kernels/ops.h"

namespace tessera::test {

// Random numbers of one case. The seed stands in every failure message through SCOPED_TRACE;
// TESSERA_TEST_SEED repeats it.
class Random {
 public:
  explicit Random(uint64_t seed) : engine_(seed) {}
  int64_t Int(int64_t low, int64_t high) {  // both ends included
    return std::uniform_int_distribution<int64_t>(low, high)(engine_);
  }
  float Normal(float scale = 1.0F) { return std::normal_distribution<float>(0, scale)(engine_); }
  bool Chance(double probability) { return std::bernoulli_distribution(probability)(engine_); }
  int64_t OneOf(std::initializer_list<int64_t> values) {
    return values.begin()[Int(0, static_cast<int64_t>(values.size()) - 1)];
  }
  std::vector<float> Normals(int64_t count, float scale = 1.0F);
  std::mt19937_64& engine() { return engine_; }

 private:
  std::mt19937_64 engine_;
};

// Calls body(random) for `cases` seeds, each under a trace that names it.
void ForSeeds(int cases, const std::function<void(Random&)>& body);

// Rounds to the nearest value of `dtype` (kF32 or kBF16).
float RoundTo(DType dtype, float value);
std::vector<float> RoundTo(DType dtype, std::vector<float> values);

// A device tensor with poison (0xFF bytes: NaN, or -1) before it, after it and in its row gaps.
class TestTensor {
 public:
  // `row_gap`: elements between rows beyond the row itself.
  TestTensor(Device& device, DType dtype, std::vector<int64_t> dims, int64_t row_gap = 0);
  // Filled with values; kF32, kBF16.
  TestTensor(Device& device, DType dtype, std::vector<int64_t> dims,
             const std::vector<float>& values, int64_t row_gap = 0);
  static TestTensor Ints(Device& device, std::vector<int64_t> dims,
                         const std::vector<int32_t>& values);
  static TestTensor Longs(Device& device, const std::vector<int64_t>& values);

  TensorView view() const { return view_; }
  operator TensorView() const { return view_; }       // NOLINT(google-explicit-constructor)
  operator ConstTensorView() const { return view_; }  // NOLINT(google-explicit-constructor)

  // Wait for the device, check every guard byte, and return the elements without row gaps.
  std::vector<float> Floats() const;
  std::vector<int32_t> Ints() const;
  std::vector<int64_t> Longs() const;
  std::vector<char> Bytes() const;
  // Fails the test unless the tensor and its guards still hold what was uploaded.
  void ExpectUnchanged() const { EXPECT_EQ(Bytes(), uploaded_); }

 private:
  // All elements of a contiguous tensor.
  template <typename T>
  std::vector<T> Elements() const;
  void UploadRows(const void* values, size_t element);

  Device* device_;
  DeviceBuffer buffer_;
  TensorView view_;
  std::vector<char> uploaded_;
};

// The one error metric: the largest |actual - expected| / (|expected| + rms(expected)); infinite
// when a NaN meets a number or the sizes differ.
double WorstError(const std::vector<float>& actual, const std::vector<double>& expected);
double WorstError(const std::vector<float>& actual, const std::vector<float>& expected);

// What rounding a result to `dtype` once may add to the WorstError: half a unit in the last place.
inline double RoundingError(DType dtype) { return dtype == DType::kBF16 ? 1.0 / 256 : 0.0; }

// Allowed WorstError of an operation before its result is rounded, by the least precise type that
// it may round its inputs to.
struct Tolerance {
  double f32;
  double bf16;
  double Of(DType dtype) const { return dtype == DType::kF32 ? f32 : bf16; }
};

std::unique_ptr<ExpertTable> MakeExpertTable(Ops& ops,
                                             const std::vector<std::unique_ptr<Weight>>& weights);

struct BackendCase {
  std::string backend;
  DType model_dtype;
  int num_threads;
  std::string cpu_isa = "auto";
};
void PrintTo(const BackendCase& backend, std::ostream* out);
// All linked backends, in both model types, with one and with three threads, the cpu backend with
// every instruction set of this machine.
std::vector<BackendCase> AllBackends();

class OpTest : public testing::TestWithParam<BackendCase> {
 protected:
  void SetUp() override;

  Ops& ops() { return *ops_; }
  Device& device() { return ops_->device(); }
  DType model_dtype() const { return GetParam().model_dtype; }
  DType act() const { return act_; }
  // Emulated GPUs take a thousand times as long: an eighth of the cases.
  int Cases(int cases) const { return GetParam().backend == "cuda-emulated" ? cases / 8 : cases; }

  // Activations: rounded to the activation type, so that the expectation sees the same numbers.
  std::vector<float> Activations(Random& random, int64_t count, float scale = 1.0F) {
    return RoundTo(act_, random.Normals(count, scale));
  }
  // Weights: rounded to the model type.
  std::vector<float> Weights(Random& random, int64_t count, float scale) {
    return RoundTo(model_dtype(), random.Normals(count, scale));
  }
  // Prepares [rows, cols] float values kept in the model type.
  std::unique_ptr<Weight> Prepare(const std::vector<float>& values, int64_t rows, int64_t cols);
  // A table with all slots filled.
  std::unique_ptr<ExpertTable> Table(const std::vector<std::unique_ptr<Weight>>& weights) {
    return MakeExpertTable(ops(), weights);
  }

 private:
  std::unique_ptr<Ops> ops_;
  DType act_ = DType::kF32;
};

#define TESSERA_OP_TEST_SUITE(suite)                                      \
  INSTANTIATE_TEST_SUITE_P(                                               \
      Backends, suite, testing::ValuesIn(::tessera::test::AllBackends()), \
      [](const auto& test_case) { return ::tessera::test::CaseName(test_case.param); })
std::string CaseName(const BackendCase& backend);

}  // namespace tessera::test

#endif  // TESSERA_TESTS_KERNELS_OP_TEST_H_
