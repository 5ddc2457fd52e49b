#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "tests/kernels/op_test.h"

namespace tessera::test {
namespace {

constexpr Tolerance kGemm{.f32 = 2e-5, .bf16 = 2e-2};

class GemmTest : public OpTest {
 protected:
  // Inputs of one case. A product by a bfloat16 weight may round them to bfloat16; half of the
  // cases leave it nothing to round, as bfloat16 activations always do, and then it must be as
  // precise as in float32.
  struct Inputs {
    std::vector<float> values;
    double tolerance;
  };
  Inputs RandomInputs(Random& random, int64_t count) {
    const std::vector<float> values = Activations(random, count);
    if (act() == DType::kF32 && random.Chance(0.5)) return {values, kGemm.Of(model_dtype())};
    return {RoundTo(DType::kBF16, values), kGemm.f32};
  }
};
TESSERA_OP_TEST_SUITE(GemmTest);

double Dot(const std::vector<float>& x, int64_t row, const std::vector<float>& w, int64_t column,
           int64_t size) {
  double sum = 0;
  for (int64_t k = 0; k < size; ++k) {
    sum += static_cast<double>(x[row * size + k]) * w[column * size + k];
  }
  return sum;
}

TEST_P(GemmTest, MatchesTheFormula) {
  ForSeeds(40, [&](Random& random) {
    const int64_t m = random.OneOf({0, 1, 2, 3, 4, 5, 7, 8, 13, 16, 33, 70});
    const int64_t n = random.OneOf({1, 3, 8, 15, 16, 17, 24, 48, 96, 131});
    const int64_t k = random.OneOf({1, 2, 7, 8, 16, 31, 64, 100, 256, 515});
    const auto [x, tolerance] = RandomInputs(random, m * k);
    const std::vector<float> w = Weights(random, n * k, 0.2F);
    const std::vector<float> b = random.Normals(n);
    const bool has_bias = random.Chance(0.5);
    const DType out_dtype = random.Chance(0.5) ? DType::kF32 : act();
    const TestTensor x_tensor(device(), act(), {m, k}, x, random.OneOf({0, 3, 16}));
    const TestTensor bias(device(), DType::kF32, {n}, b);
    const TestTensor out(device(), out_dtype, {m, n}, random.OneOf({0, 5, 8}));
    const std::unique_ptr<Weight> weight = Prepare(w, n, k);
    EXPECT_EQ(weight->rows(), n);
    EXPECT_EQ(weight->cols(), k);
    GemmArgs args{.x = x_tensor, .weight = weight.get(), .bias = {}, .out = out};
    if (has_bias) args.bias = bias;
    ops().Gemm(args);
    std::vector<double> expected;
    for (int64_t i = 0; i < m; ++i) {
      for (int64_t j = 0; j < n; ++j) {
        expected.push_back(Dot(x, i, w, j, k) + (has_bias ? b[j] : 0.0));
      }
    }
    EXPECT_LE(WorstError(out.Floats(), expected), tolerance + RoundingError(out_dtype))
        << m << "x" << n << "x" << k;
    x_tensor.ExpectUnchanged();
  });
}

TEST_P(GemmTest, GroupedMatchesTheFormulaAndLeavesTheRest) {
  ForSeeds(30, [&](Random& random) {
    const int64_t experts = random.OneOf({1, 2, 5, 16, 40});
    const int64_t n = random.OneOf({1, 8, 17, 32, 50});
    const int64_t k = random.OneOf({1, 8, 33, 64, 130});
    const int64_t tokens = random.Int(1, 40);
    std::vector<int32_t> offsets{0};
    for (int64_t e = 0; e < experts; ++e) {
      const int64_t rows = random.Chance(0.4) ? 0 : random.Int(1, 9);
      offsets.push_back(offsets.back() + static_cast<int32_t>(rows));
    }
    const int64_t used = offsets.back();
    const int64_t rows = used + random.Int(0, 6);
    const bool indexed = random.Chance(0.6);
    const int64_t x_rows = indexed ? tokens : rows;
    const auto [x, tolerance] = RandomInputs(random, x_rows * k);
    std::vector<int32_t> index(rows, 1 << 30);  // Rows beyond the last offset must not be read.
    for (int64_t r = 0; r < used; ++r) {
      index[r] = static_cast<int32_t>(indexed ? random.Int(0, tokens - 1) : r);
    }
    std::vector<std::vector<float>> w;
    std::vector<std::unique_ptr<Weight>> owned;
    for (int64_t e = 0; e < experts; ++e) {
      w.push_back(Weights(random, n * k, 0.2F));
      owned.push_back(Prepare(w.back(), n, k));
    }
    const std::unique_ptr<ExpertTable> table = Table(owned);
    const TestTensor x_tensor(device(), act(), {x_rows, k}, x, random.OneOf({0, 4}));
    const TestTensor offsets_tensor = TestTensor::Ints(device(), {experts + 1}, offsets);
    const TestTensor index_tensor = TestTensor::Ints(device(), {rows}, index);
    const TestTensor out(device(), act(), {rows, n});
    const TensorView used_out = out.view();
    GroupedGemmArgs args{.x = x_tensor,
                         .row_index = {},
                         .offsets = offsets_tensor,
                         .experts = table.get(),
                         .out = used_out};
    if (indexed) args.row_index = index_tensor;
    ops().GroupedGemm(args);
    std::vector<float> actual = out.Floats();
    for (int64_t i = used * n; i < rows * n; ++i) {
      EXPECT_TRUE(std::isnan(actual[i])) << "row beyond offsets[E] was written";
    }
    actual.resize(used * n);
    std::vector<double> expected;
    for (int64_t e = 0; e < experts; ++e) {
      for (int32_t r = offsets[e]; r < offsets[e + 1]; ++r) {
        for (int64_t j = 0; j < n; ++j) expected.push_back(Dot(x, index[r], w[e], j, k));
      }
    }
    EXPECT_LE(WorstError(actual, expected), tolerance + RoundingError(act()));
  });
}

// A slot's weight is replaced between two products, each of which uses what was there; rows of a
// slot that was never filled are left alone.
TEST_P(GemmTest, TableEntriesChangeInQueueOrder) {
  const auto constant = [&](float value) { return Prepare(std::vector<float>(2, value), 1, 2); };
  const TestTensor x(device(), act(), {3, 2}, std::vector<float>(6, 1.0F));
  const TestTensor offsets = TestTensor::Ints(device(), {4}, {0, 1, 2, 3});
  const TestTensor before(device(), act(), {3, 1});
  const TestTensor after(device(), act(), {3, 1});
  const auto table = *ops().CreateExpertTable({.num_slots = 3, .rows = 1, .cols = 2});
  const std::unique_ptr<Weight> first = constant(1);
  std::unique_ptr<Weight> second = constant(2);
  table->Set(0, *first);
  table->Set(1, *second);
  ops().GroupedGemm({.x = x, .offsets = offsets, .experts = table.get(), .out = before});
  std::unique_ptr<Weight> other = constant(3);
  table->Set(1, *other);
  second.reset();
  ops().GroupedGemm({.x = x, .offsets = offsets, .experts = table.get(), .out = after});
  const auto expect = [](const TestTensor& out, float slot_1) {
    const std::vector<float> values = out.Floats();
    EXPECT_EQ(values[0], 2);
    EXPECT_EQ(values[1], slot_1);
    EXPECT_TRUE(std::isnan(values[2]));
  };
  expect(before, 4);
  expect(after, 6);
}

TEST_P(GemmTest, StacksPartsOfEveryTypeAndPadsWithZeros) {
  ForSeeds(10, [&](Random& random) {
    const int64_t k = random.OneOf({5, 16, 40});
    const int64_t gap = random.OneOf({0, 3});
    // Small integers are exact in every type.
    const auto integers = [&](int64_t count) {
      std::vector<float> values(count);
      for (float& value : values) value = static_cast<float>(random.Int(-8, 8));
      return values;
    };
    const std::vector<float> first = integers(3 * (k + gap));
    const std::vector<float> second = integers(2 * k);
    // One byte off alignment, as in a mapped file.
    std::vector<char> first_bytes(1 + first.size() * sizeof(float));
    std::memcpy(first_bytes.data() + 1, first.data(), first.size() * sizeof(float));
    std::vector<uint16_t> second_bf16;
    for (float value : second) second_bf16.push_back(FloatToBF16(value));
    WeightSource source;
    source.parts = {{first_bytes.data() + 1, DType::kF32, 3, k, k + gap},
                    {second_bf16.data(), DType::kBF16, 2, k, k}};
    source.pad_rows = 3;
    source.dtype = model_dtype();
    absl::StatusOr<std::unique_ptr<Weight>> weight = ops().PrepareWeight(source);
    ASSERT_TRUE(weight.ok()) << weight.status().message();
    ASSERT_EQ((*weight)->rows(), 8);
    const std::vector<float> x = integers(2 * k);
    const TestTensor x_tensor(device(), act(), {2, k}, x);
    const TestTensor out(device(), DType::kF32, {2, 8});
    ops().Gemm({.x = x_tensor, .weight = weight->get(), .bias = {}, .out = out});
    std::vector<float> expected;
    for (int64_t m = 0; m < 2; ++m) {
      for (int64_t n = 0; n < 8; ++n) {
        float sum = 0;
        for (int64_t i = 0; i < k && n < 5; ++i) {
          sum += x[m * k + i] * (n < 3 ? first[n * (k + gap) + i] : second[(n - 3) * k + i]);
        }
        expected.push_back(sum);
      }
    }
    EXPECT_EQ(out.Floats(), expected);
  });
}

TEST_P(GemmTest, RefusesSourcesItCannotHold) {
  const std::vector<float> values(16);
  WeightSource source;
  EXPECT_EQ(ops().PrepareWeight(source).status().code(), absl::StatusCode::kInvalidArgument);
  source.parts = {{values.data(), DType::kF32, 2, 4, 4}, {values.data(), DType::kF32, 2, 3, 3}};
  EXPECT_EQ(ops().PrepareWeight(source).status().code(), absl::StatusCode::kInvalidArgument);
  source.parts = {{values.data(), DType::kI32, 2, 4, 4}};
  EXPECT_EQ(ops().PrepareWeight(source).status().code(), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace tessera::test
