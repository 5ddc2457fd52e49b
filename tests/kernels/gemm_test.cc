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

// A quantised matrix, and what it means.
struct Codes {
  int64_t rows = 0;
  int64_t cols = 0;
  DType type = DType::kI8;
  std::vector<uint8_t> codes;
  std::vector<float> scales;
  std::vector<uint8_t> zeros;
  CodeScales form;
  std::vector<float> values;

  HostMatrix Rows(int64_t begin, int64_t count) const {
    HostMatrix part{codes.data() + begin * cols, type, count, cols, cols};
    part.codes = form;
    part.codes.scales = scales.data() + begin * form.groups;
    if (!zeros.empty()) part.codes.zeros = zeros.data() + begin * form.groups;
    return part;
  }
};

float ValueOf(const Codes& matrix, int64_t row, int64_t col) {
  const uint8_t code = matrix.codes[row * matrix.cols + col];
  const int64_t group =
      row * matrix.form.groups + (col + matrix.form.group_offset) / matrix.form.group_size;
  float number = 0;
  if (matrix.type == DType::kI8) {
    number = static_cast<int8_t>(code);
  } else if (matrix.type == DType::kF8E4M3) {
    const int exponent = (code >> 3) & 15;
    number = std::ldexp(static_cast<float>((code & 7) + (exponent == 0 ? 0 : 8)),
                        exponent == 0 ? -9 : exponent - 10);
    if ((code & 0x80) != 0) number = -number;
  } else {
    number = static_cast<float>(code - (matrix.zeros.empty() ? 8 : matrix.zeros[group]));
  }
  return number * matrix.scales[group];
}

Codes RandomCodes(Random& random) {
  Codes matrix{.rows = random.OneOf({1, 5, 16, 17, 33, 70}),
               .cols = random.OneOf({1, 2, 7, 16, 31, 64, 100, 258, 515})};
  const int64_t type = random.Int(0, 2);
  matrix.type = type == 0 ? DType::kI8 : type == 1 ? DType::kF8E4M3 : DType::kU8;
  matrix.form.group_size = random.Chance(0.3) ? matrix.cols : random.OneOf({2, 16, 32, 128});
  if (matrix.form.group_size != matrix.cols) {
    matrix.form.group_offset = random.Int(0, matrix.form.group_size / 2 - 1) * 2;
  }
  matrix.form.groups = (matrix.cols - 1 + matrix.form.group_offset) / matrix.form.group_size + 1;
  for (int64_t i = 0; i < matrix.rows * matrix.cols; ++i) {
    auto code = static_cast<uint8_t>(random.Int(0, 255));
    if (matrix.type == DType::kU8) code &= 15;
    if (matrix.type == DType::kF8E4M3 && (code & 0x7F) == 0x7F) code = 0x80;
    matrix.codes.push_back(code);
  }
  const float unit = matrix.type == DType::kF8E4M3 ? 1e-3F : 1e-2F;
  for (int64_t i = 0; i < matrix.rows * matrix.form.groups; ++i) {
    matrix.scales.push_back(unit * static_cast<float>(random.Int(-100, 100)) / 77);
  }
  if (matrix.type == DType::kU8 && random.Chance(0.5)) {
    for (int64_t i = 0; i < matrix.rows * matrix.form.groups; ++i) {
      matrix.zeros.push_back(static_cast<uint8_t>(random.Int(0, 16)));
    }
  }
  for (int64_t row = 0; row < matrix.rows; ++row) {
    for (int64_t col = 0; col < matrix.cols; ++col) {
      matrix.values.push_back(ValueOf(matrix, row, col));
    }
  }
  return matrix;
}

// In two parts with rows of padding, for any number of rows, alone and as an expert, and looked up.
TEST_P(GemmTest, CodesGiveTheBitsOfTheirValues) {
  if (!ops().KeepsCodes()) GTEST_SKIP() << "this backend does not keep codes";
  ForSeeds(40, [&](Random& random) {
    const Codes matrix = RandomCodes(random);
    const int64_t first = random.Int(0, matrix.rows);
    const int64_t pad = random.OneOf({0, 3});
    const int64_t n = matrix.rows + pad;
    const int64_t k = matrix.cols;
    const auto codes = ops().PrepareWeight(
        {.parts = {matrix.Rows(0, first), matrix.Rows(first, matrix.rows - first)},
         .pad_rows = pad,
         .dtype = model_dtype()});
    ASSERT_TRUE(codes.ok()) << codes.status();
    const auto values =
        ops().PrepareWeight({.parts = {{matrix.values.data(), DType::kF32, matrix.rows, k, k}},
                             .pad_rows = pad,
                             .dtype = model_dtype()});
    ASSERT_TRUE(values.ok()) << values.status();
    EXPECT_EQ((*codes)->rows(), n);
    EXPECT_EQ((*codes)->cols(), k);
    const int64_t m = random.OneOf({1, 2, 3, 8, 16, 33, 70});
    const TestTensor x(device(), act(), {m, k}, Activations(random, m * k));
    const TestTensor of_codes(device(), DType::kF32, {m, n}, 5);
    const TestTensor of_values(device(), DType::kF32, {m, n}, 5);
    ops().Gemm({.x = x, .weight = codes->get(), .bias = {}, .out = of_codes});
    ops().Gemm({.x = x, .weight = values->get(), .bias = {}, .out = of_values});
    EXPECT_EQ(of_codes.Floats(), of_values.Floats()) << m << "x" << n << "x" << k;

    const auto table = ops().CreateExpertTable({.num_slots = 1, .rows = n, .cols = k});
    ASSERT_TRUE(table.ok());
    (*table)->Set(0, **codes);
    const TestTensor offsets = TestTensor::Ints(device(), {2}, {0, static_cast<int32_t>(m)});
    const TestTensor grouped(device(), act(), {m, n});
    const TestTensor plain(device(), act(), {m, n});
    ops().GroupedGemm(
        {.x = x, .row_index = {}, .offsets = offsets, .experts = table->get(), .out = grouped});
    ops().Gemm({.x = x, .weight = values->get(), .bias = {}, .out = plain});
    EXPECT_EQ(grouped.Floats(), plain.Floats());

    const TestTensor ids = TestTensor::Ints(device(), {1}, {static_cast<int32_t>(n - 1)});
    const TestTensor row(device(), act(), {1, k});
    const TestTensor same(device(), act(), {1, k});
    ops().Embed({.ids = ids, .table = codes->get(), .out = row});
    ops().Embed({.ids = ids, .table = values->get(), .out = same});
    EXPECT_EQ(row.Floats(), same.Floats());
  });
}

TEST_P(GemmTest, CodesTakeNoMoreMemoryThanTheirBits) {
  if (!ops().KeepsCodes() || GetParam().backend != "cpu") GTEST_SKIP() << "of the CPU only";
  const std::vector<uint8_t> codes(int64_t{64} * 256);
  const std::vector<float> scales(int64_t{64} * 8, 1.0F);
  HostMatrix matrix{codes.data(), DType::kU8, 64, 256, 256};
  matrix.codes = {.scales = scales.data(), .zeros = nullptr, .groups = 8, .group_size = 32};
  const auto four = ops().PrepareWeight({.parts = {matrix}, .dtype = model_dtype()});
  matrix.dtype = DType::kI8;
  matrix.codes = {.scales = scales.data(), .zeros = nullptr, .groups = 1, .group_size = 256};
  const auto eight = ops().PrepareWeight({.parts = {matrix}, .dtype = model_dtype()});
  ASSERT_TRUE(four.ok() && eight.ok());
  EXPECT_EQ((*four)->bytes(), 64U * (256 / 2 + 8 * 4));
  EXPECT_EQ((*eight)->bytes(), 64U * (256 + 4));
}

TEST_P(GemmTest, RefusesCodesThatAreNotAlike) {
  if (!ops().KeepsCodes()) GTEST_SKIP() << "this backend does not keep codes";
  const std::vector<uint8_t> codes(64);
  const std::vector<float> scales(64);
  HostMatrix one{codes.data(), DType::kI8, 2, 16, 16};
  one.codes = {.scales = scales.data(), .zeros = nullptr, .groups = 2, .group_size = 8};
  HostMatrix other = one;
  EXPECT_TRUE(ops().PrepareWeight({.parts = {one, other}}).ok());
  other.dtype = DType::kF8E4M3;
  EXPECT_FALSE(ops().PrepareWeight({.parts = {one, other}}).ok());
  other = one;
  other.codes.group_offset = 2;
  EXPECT_FALSE(ops().PrepareWeight({.parts = {one, other}}).ok());
  EXPECT_FALSE(ops().PrepareWeight({.parts = {other}}).ok())
      << "three groups, of which two have scales";
  const std::vector<float> values(64);
  EXPECT_FALSE(ops().PrepareWeight({.parts = {one, {values.data(), DType::kF32, 2, 16, 16}}}).ok());
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
