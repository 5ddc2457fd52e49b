// The launcher of kernels/cuda/kernels/gemm.h by itself: odd shapes, strides and alignments, and
// the same bits from every way of cutting a product.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <memory>

#include "kernels/cuda/kernels/gemm.h"
#include "kernels/cuda/simt/simt.h"
#include "tests/kernels/cuda/guarded_array.h"
#include "tests/kernels/op_test.h"

namespace tessera::test {
namespace {

using cuda::GemmProblem;
using simt::Bf16;

// A product on random numbers; one group unless `group_rows` says otherwise.
struct Case {
  bool bf16 = true;
  bool out_bf16 = true;
  int n = 0;
  int k = 0;
  std::vector<int> group_rows;  // empty: no groups, `rows` rows
  int rows = 0;
  int rows_behind = 0;  // rows of out beyond the last group
  bool indexed = false;
  bool bias = false;
  int empty_slot = -1;  // group whose weight is null
  int x_gap = 0;        // elements between rows
  int x_offset = 0;     // elements by which x misses its alignment
  int out_gap = 0;
  bool workspace = true;
};

int Total(const Case& c) {
  int total = c.rows;
  for (int rows : c.group_rows) total += rows;
  return total;
}

template <typename T>
T Element(float value) {
  if constexpr (std::is_same_v<T, Bf16>) {
    return simt::ToBf16(value);
  } else {
    return value;
  }
}
float Value(float value) { return value; }
float Value(Bf16 value) { return simt::ToFloat(value); }

// Inputs of a case, with the rows of x and the weights drawn by their own numbers.
struct Inputs {
  std::vector<std::vector<float>> x;        // [x rows][k]
  std::vector<std::vector<float>> weights;  // [groups][n k]
  std::vector<float> bias;
  std::vector<int32_t> index;  // row of x of each row
};

Inputs RandomInputs(Random& random, const Case& c) {
  Inputs inputs;
  const DType dtype = c.bf16 ? DType::kBF16 : DType::kF32;
  const int total = Total(c);
  const int x_rows = c.indexed ? total / 2 + 1 : total;
  for (int r = 0; r < x_rows; ++r) inputs.x.push_back(RoundTo(dtype, random.Normals(c.k)));
  const size_t groups = c.group_rows.empty() ? 1 : c.group_rows.size();
  for (size_t g = 0; g < groups; ++g) {
    inputs.weights.push_back(RoundTo(dtype, random.Normals(int64_t{c.n} * c.k, 0.2F)));
  }
  inputs.bias = random.Normals(c.n);
  for (int r = 0; r < total; ++r) {
    inputs.index.push_back(static_cast<int32_t>(c.indexed ? random.Int(0, x_rows - 1) : r));
  }
  return inputs;
}

constexpr int32_t kNoRow = 1 << 30;  // an index that must not be followed
constexpr int kPadding = 8;          // elements to which rows of weights are padded

template <typename T>
std::vector<T> Flat(const std::vector<float>& values, int rows, int cols, int stride) {
  std::vector<T> flat(static_cast<size_t>(rows) * stride);
  if (!flat.empty()) std::memset(flat.data(), 0xFF, flat.size() * sizeof(T));
  for (int r = 0; r < rows; ++r) {
    for (int i = 0; i < cols; ++i) flat[r * stride + i] = Element<T>(values[r * cols + i]);
  }
  return flat;
}

template <typename T>
std::vector<T> PaddedWeight(const std::vector<float>& values, int n, int k) {
  const int stride = simt::CeilDiv(k, kPadding) * kPadding;
  std::vector<T> padded(static_cast<size_t>(n) * stride, Element<T>(0.0F));
  for (int r = 0; r < n; ++r) {
    for (int i = 0; i < k; ++i) padded[r * stride + i] = Element<T>(values[r * k + i]);
  }
  return padded;
}

// The bits of out, row by row; rows that nobody owns stay poisoned.
template <typename T, typename Out>
std::vector<float> MultiplyTyped(const Case& c, const Inputs& inputs) {
  const int total = Total(c);
  const int rows = total + c.rows_behind;
  const int x_stride = c.k + c.x_gap;
  std::vector<float> x_values;
  for (const auto& row : inputs.x) x_values.insert(x_values.end(), row.begin(), row.end());
  const GuardedArray<T> x(Flat<T>(x_values, static_cast<int>(inputs.x.size()), c.k, x_stride),
                          c.x_offset);
  std::vector<std::unique_ptr<GuardedArray<T>>> weights;
  std::vector<const void*> pointers;
  for (const auto& weight : inputs.weights) {
    weights.push_back(std::make_unique<GuardedArray<T>>(PaddedWeight<T>(weight, c.n, c.k)));
    pointers.push_back(weights.back()->data());
  }
  if (c.empty_slot >= 0) pointers[c.empty_slot] = nullptr;
  const GuardedArray<const void*> table(pointers);
  std::vector<int32_t> offsets{0};
  for (int g : c.group_rows) offsets.push_back(offsets.back() + g);
  const GuardedArray<int32_t> offsets_array(offsets);
  std::vector<int32_t> index = inputs.index;
  index.resize(rows, kNoRow);
  const GuardedArray<int32_t> index_array(index);
  const GuardedArray<float> bias(inputs.bias);
  const int out_stride = c.n + c.out_gap;
  const auto out = GuardedArray<Out>::Poisoned(static_cast<size_t>(rows) * out_stride);
  const GuardedArray<uint32_t> counters{std::vector<uint32_t>(cuda::Workspace::kNumCounters)};

  GemmProblem problem{.bf16 = std::is_same_v<T, Bf16>,
                      .out_bf16 = std::is_same_v<Out, Bf16>,
                      .x = x.data(),
                      .x_stride = x_stride,
                      .rows = rows,
                      .n = c.n,
                      .k = c.k,
                      .weight = pointers[0],
                      .weight_stride = simt::CeilDiv(c.k, kPadding) * kPadding,
                      .bias = c.bias ? bias.data() : nullptr,
                      .out = out.data(),
                      .out_stride = out_stride,
                      .row_index = c.indexed ? index_array.data() : nullptr};
  if (!c.group_rows.empty()) {
    problem.offsets = offsets_array.data();
    problem.weights = table.data();
    problem.num_groups = static_cast<int32_t>(c.group_rows.size());
  }
  const size_t workspace_bytes = c.workspace ? cuda::GemmWorkspaceBytes(problem) : 0;
  const auto workspace = GuardedArray<char>::Poisoned(workspace_bytes + 16);
  problem.workspace = {workspace.data(), workspace_bytes, counters.data()};
  EXPECT_EQ(cuda::LaunchGemm(nullptr, problem), cudaSuccess);
  const std::vector<Out> all = out.Get();
  x.ExpectUnchanged();
  counters.ExpectUnchanged();  // back at zero
  std::vector<float> values;
  for (int r = 0; r < rows; ++r) {
    for (int i = 0; i < out_stride; ++i) {
      const float value = Value(all[static_cast<size_t>(r) * out_stride + i]);
      if (i < c.n) {
        values.push_back(value);
      } else {
        EXPECT_TRUE(std::isnan(value)) << "between rows";
      }
    }
  }
  return values;
}

std::vector<float> Multiply(const Case& c, const Inputs& inputs) {
  if (!c.bf16) return MultiplyTyped<float, float>(c, inputs);
  return c.out_bf16 ? MultiplyTyped<Bf16, Bf16>(c, inputs) : MultiplyTyped<Bf16, float>(c, inputs);
}

std::vector<double> Expected(const Case& c, const Inputs& inputs, int row, int group) {
  const std::vector<float>& x = inputs.x[inputs.index[row]];
  std::vector<double> expected;
  for (int j = 0; j < c.n; ++j) {
    double sum = c.bias ? inputs.bias[j] : 0.0;
    for (int i = 0; i < c.k; ++i) {
      sum += static_cast<double>(x[i]) * inputs.weights[group][static_cast<size_t>(j) * c.k + i];
    }
    expected.push_back(sum);
  }
  return expected;
}

void ExpectFormula(const Case& c, const Inputs& inputs, const std::vector<float>& actual) {
  std::vector<float> owned;
  std::vector<double> expected;
  std::vector<int> sizes = c.group_rows;
  if (sizes.empty()) sizes = {c.rows};
  int row = 0;
  for (size_t g = 0; g < sizes.size(); ++g) {
    for (int i = 0; i < sizes[g]; ++i, ++row) {
      const auto begin = actual.begin() + static_cast<ptrdiff_t>(row) * c.n;
      if (static_cast<int>(g) == c.empty_slot) {
        EXPECT_TRUE(std::isnan(*begin)) << "row " << row << " of an empty slot";
        continue;
      }
      const std::vector<double> values = Expected(c, inputs, row, static_cast<int>(g));
      owned.insert(owned.end(), begin, begin + c.n);
      expected.insert(expected.end(), values.begin(), values.end());
    }
  }
  for (size_t i = static_cast<size_t>(row) * c.n; i < actual.size(); ++i) {
    ASSERT_TRUE(std::isnan(actual[i])) << "beyond the last group";
  }
  EXPECT_LE(WorstError(owned, expected),
            2e-5 + RoundingError(c.bf16 && c.out_bf16 ? DType::kBF16 : DType::kF32));
}

std::string Describe(const Case& c) {
  return (testing::Message() << (c.bf16 ? "bf16 " : "f32 ") << Total(c) << "x" << c.n << "x" << c.k
                             << " groups " << c.group_rows.size() << " gap " << c.x_gap
                             << " offset " << c.x_offset << " workspace " << c.workspace)
      .GetString();
}

Case RandomCase(Random& random) {
  Case c;
  c.bf16 = random.Chance(0.6);
  c.out_bf16 = c.bf16 && random.Chance(0.5);
  c.n = static_cast<int>(random.OneOf({1, 7, 16, 33, 130, 200}));
  c.k = static_cast<int>(random.OneOf({1, 8, 31, 64, 100, 300}));
  c.x_gap = static_cast<int>(random.OneOf({0, 0, 3, 8}));
  c.x_offset = static_cast<int>(random.OneOf({0, 0, 1, 4}));
  c.out_gap = static_cast<int>(random.OneOf({0, 1, 8}));
  c.workspace = random.Chance(0.7);
  return c;
}

TEST(CudaGemmTest, MatchesTheFormula) {
  ForSeeds(24, [](Random& random) {
    Case c = RandomCase(random);
    c.rows = static_cast<int>(random.OneOf({0, 1, 2, 15, 16, 17, 65}));
    c.bias = random.Chance(0.5);
    const Inputs inputs = RandomInputs(random, c);
    SCOPED_TRACE(Describe(c));
    ExpectFormula(c, inputs, Multiply(c, inputs));
  });
}

TEST(CudaGemmTest, GroupsMatchTheFormulaAndLeaveTheRest) {
  ForSeeds(16, [](Random& random) {
    Case c = RandomCase(random);
    const int64_t groups = random.OneOf({1, 3, 33, 40});
    for (int64_t g = 0; g < groups; ++g) {
      const int64_t rows = random.Chance(groups > 3 ? 0.8 : 0.3) ? 0 : random.OneOf({1, 2, 9, 70});
      c.group_rows.push_back(static_cast<int>(rows));
    }
    c.indexed = random.Chance(0.7);
    c.rows_behind = static_cast<int>(random.Int(0, 5));
    if (random.Chance(0.3)) c.empty_slot = static_cast<int>(random.Int(0, groups - 1));
    const Inputs inputs = RandomInputs(random, c);
    SCOPED_TRACE(Describe(c));
    ExpectFormula(c, inputs, Multiply(c, inputs));
  });
}

// A row alone, in tiles of 16 and of 64 rows, as a group's row, with K cut or in one pass.
TEST(CudaGemmTest, GivesTheSameBitsHoweverItIsCut) {
  ForSeeds(6, [](Random& random) {
    Case c;
    c.bf16 = random.Chance(0.5);
    c.out_bf16 = false;
    c.n = static_cast<int>(random.OneOf({33, 130}));
    c.k = static_cast<int>(random.OneOf({515, 1100}));
    c.rows = 70;
    const Inputs inputs = RandomInputs(random, c);
    SCOPED_TRACE(Describe(c));
    const std::vector<float> whole = Multiply(c, inputs);
    for (const auto& [rows, grouped, workspace] : {std::tuple{70, false, false},
                                                   {1, false, true},
                                                   {1, false, false},
                                                   {16, false, true},
                                                   {20, true, true},
                                                   {1, true, true},
                                                   {16, true, false}}) {
      Case part = c;
      part.workspace = workspace;
      part.rows = grouped ? 0 : rows;
      if (grouped) part.group_rows = {rows};
      const auto first = static_cast<int>(random.Int(0, c.rows - rows));
      Inputs some = inputs;
      some.x.assign(inputs.x.begin() + first, inputs.x.begin() + first + rows);
      some.index.resize(rows);
      const std::vector<float> expected(whole.begin() + static_cast<ptrdiff_t>(first) * c.n,
                                        whole.begin() + static_cast<ptrdiff_t>(first + rows) * c.n);
      ASSERT_EQ(Multiply(part, some), expected)
          << rows << " rows, grouped " << grouped << ", workspace " << workspace;
    }
  });
}

}  // namespace
}  // namespace tessera::test
