#include "tests/kernels/cuda/gemm_sm90_case.h"

#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <numeric>

#include "kernels/cuda/fake/emulated_gpus.h"
#include "kernels/cuda/tensor_map.h"
#include "tests/kernels/cuda/guarded_array.h"

namespace tessera::test {
namespace {

using cuda::GemmProblem;
using simt::Bf16;

constexpr int kPadding = 8;          // elements to which rows of weights are padded
constexpr int32_t kNoRow = 1 << 30;  // an index that must not be followed
constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

int StrideOfWeights(const Sm90Case& c) { return simt::CeilDiv(c.k, kPadding) * kPadding; }

// Rows of `stride` elements; between them are NaN, or zeros.
std::vector<Bf16> Rows(const std::vector<float>& values, int cols, int stride, bool zeros) {
  const size_t rows = values.size() / cols;
  std::vector<Bf16> flat(rows * stride, Bf16{static_cast<uint16_t>(zeros ? 0 : 0xffff)});
  for (size_t r = 0; r < rows; ++r) {
    for (int i = 0; i < cols; ++i) flat[r * stride + i] = simt::ToBf16(values[r * cols + i]);
  }
  return flat;
}

simt::TensorMap MapOf(const cuda::BoxedMatrix& matrix) {
  simt::TensorMap map{};
  EXPECT_EQ(cuda::EncodeTensorMap(matrix, &map), cudaSuccess);
  return map;
}

// What is in device memory for one product.
class Memory {
 public:
  Memory(const Sm90Case& c, const Sm90Inputs& inputs)
      : c_(c),
        x_(Rows(Concatenated(inputs.x), c.k, c.k + c.x_gap, false), c.x_offset),
        index_(Padded(inputs.index, c.Rows() + c.rows_behind)),
        offsets_(Offsets(c)),
        bias_(inputs.bias) {
    std::vector<const void*> pointers;
    for (size_t g = 0; g < inputs.weights.size(); ++g) {
      weights_.push_back(std::make_unique<GuardedArray<Bf16>>(
          Rows(inputs.weights[g], c.k, StrideOfWeights(c), true)));
      pointers.push_back(weights_.back()->data());
      maps_.push_back(MapOf({.data = pointers.back(),
                             .rows = c.n,
                             .cols = c.k,
                             .stride = StrideOfWeights(c),
                             .box_rows = cuda::kSm90WeightRows}));
    }
    if (c.empty_slot >= 0) {
      pointers[c.empty_slot] = nullptr;
      maps_[c.empty_slot] = {};
    }
    table_ = std::make_unique<GuardedArray<const void*>>(pointers);
    map_table_ = std::make_unique<GuardedArray<simt::TensorMap>>(maps_);
  }

  GemmProblem Problem() const {
    GemmProblem problem{.bf16 = true,
                        .out_bf16 = c_.out_bf16,
                        .x = x_.data(),
                        .x_stride = c_.k + c_.x_gap,
                        .rows = c_.Rows() + c_.rows_behind,
                        .n = c_.n,
                        .k = c_.k,
                        .weight = weights_[0]->data(),
                        .weight_stride = StrideOfWeights(c_),
                        .bias = c_.bias ? bias_.data() : nullptr,
                        .out_stride = c_.n + c_.out_gap,
                        .row_index = c_.indexed ? index_.data() : nullptr};
    if (!c_.group_rows.empty()) {
      problem.offsets = offsets_.data();
      problem.weights = table_->data();
      problem.num_groups = static_cast<int32_t>(c_.group_rows.size());
    }
    problem.workspace.counters = counters_.data();
    return problem;
  }

  cuda::GemmSm90Maps Maps(const GemmProblem& problem) const {
    cuda::GemmSm90Maps maps{.x = {}, .weight = maps_[0], .weights = map_table_->data()};
    if (cuda::Sm90LoadsX(problem)) {
      maps.x = MapOf({.data = problem.x,
                      .rows = problem.rows,
                      .cols = problem.k,
                      .stride = problem.x_stride,
                      .box_rows = cuda::Sm90TileRows(problem)});
    }
    return maps;
  }

  void ExpectUnchanged() const {
    x_.ExpectUnchanged();
    counters_.ExpectUnchanged();  // back at zero
  }

 private:
  static std::vector<float> Concatenated(const std::vector<std::vector<float>>& rows) {
    std::vector<float> values;
    for (const auto& row : rows) values.insert(values.end(), row.begin(), row.end());
    return values;
  }
  static std::vector<int32_t> Padded(std::vector<int32_t> index, size_t rows) {
    index.resize(rows, kNoRow);
    return index;
  }
  static std::vector<int32_t> Offsets(const Sm90Case& c) {
    std::vector<int32_t> offsets{0};
    for (const int rows : c.group_rows) offsets.push_back(offsets.back() + rows);
    return offsets;
  }

  const Sm90Case& c_;
  GuardedArray<Bf16> x_;
  GuardedArray<int32_t> index_;
  GuardedArray<int32_t> offsets_;
  GuardedArray<float> bias_;
  GuardedArray<uint32_t> counters_{std::vector<uint32_t>(cuda::Workspace::kNumCounters)};
  std::vector<std::unique_ptr<GuardedArray<Bf16>>> weights_;
  std::vector<simt::TensorMap> maps_;
  std::unique_ptr<GuardedArray<const void*>> table_;
  std::unique_ptr<GuardedArray<simt::TensorMap>> map_table_;
};

float Value(float value) { return value; }
float Value(Bf16 value) { return simt::ToFloat(value); }

template <typename Out>
std::vector<float> Launch(const Sm90Case& c, const Memory& memory, LaunchSm90 launch,
                          std::string* report) {
  GemmProblem problem = memory.Problem();
  const auto out =
      GuardedArray<Out>::Poisoned(static_cast<size_t>(problem.rows) * problem.out_stride);
  problem.out = out.data();
  const size_t bytes = c.workspace ? cuda::GemmSm90WorkspaceBytes(problem, c.multiprocessors) : 0;
  const auto workspace = GuardedArray<char>::Poisoned(bytes + 16);
  problem.workspace.data = workspace.data();
  problem.workspace.bytes = bytes;
  EXPECT_EQ(launch(nullptr, problem, memory.Maps(problem), c.multiprocessors), cudaSuccess);
  if (report != nullptr && cudaDeviceSynchronize() != cudaSuccess) {
    *report = simt::fake::AnyReport();
    simt::fake::Reset();
    return {};
  }
  const std::vector<Out> all = out.Get();
  memory.ExpectUnchanged();
  std::vector<float> values;
  for (size_t i = 0; i < all.size(); ++i) {
    if (i % problem.out_stride < static_cast<size_t>(c.n)) {
      values.push_back(Value(all[i]));
    } else {
      EXPECT_TRUE(std::isnan(Value(all[i]))) << "between rows";
    }
  }
  return values;
}

}  // namespace

int Sm90Case::Rows() const {
  return group_rows.empty() ? rows : std::accumulate(group_rows.begin(), group_rows.end(), 0);
}

std::string Sm90Case::Describe() const {
  return (testing::Message() << Rows() << "x" << n << "x" << k << " groups " << group_rows.size()
                             << " indexed " << indexed << " gap " << x_gap << " offset " << x_offset
                             << " workspace " << workspace << " multiprocessors "
                             << multiprocessors)
      .GetString();
}

Sm90Inputs::Sm90Inputs(Random& random, const Sm90Case& c) {
  const int rows = c.Rows();
  const int x_rows = c.indexed ? rows / 2 + 1 : rows;
  for (int r = 0; r < x_rows; ++r) x.push_back(RoundTo(DType::kBF16, random.Normals(c.k)));
  const size_t groups = c.group_rows.empty() ? 1 : c.group_rows.size();
  for (size_t g = 0; g < groups; ++g) {
    weights.push_back(RoundTo(DType::kBF16, random.Normals(int64_t{c.n} * c.k, 0.2F)));
  }
  bias = random.Normals(c.n);
  for (int r = 0; r < rows; ++r) {
    index.push_back(static_cast<int32_t>(c.indexed ? random.Int(0, x_rows - 1) : r));
  }
}

std::vector<float> Multiply(const Sm90Case& c, const Sm90Inputs& inputs, LaunchSm90 launch,
                            std::string* report) {
  const Memory memory(c, inputs);
  return c.out_bf16 ? Launch<Bf16>(c, memory, launch, report)
                    : Launch<float>(c, memory, launch, report);
}

std::vector<double> Formula(const Sm90Case& c, const Sm90Inputs& inputs) {
  std::vector<int> sizes = c.group_rows;
  if (sizes.empty()) sizes = {c.rows};
  std::vector<double> expected;
  int row = 0;
  for (size_t g = 0; g < sizes.size(); ++g) {
    for (int r = 0; r < sizes[g]; ++r, ++row) {
      const std::vector<float>& x = inputs.x[inputs.index[row]];
      for (int j = 0; j < c.n; ++j) {
        const float* w = inputs.weights[g].data() + static_cast<size_t>(j) * c.k;
        double sum = c.bias ? inputs.bias[j] : 0.0;
        for (int i = 0; i < c.k; ++i) sum += static_cast<double>(x[i]) * w[i];
        expected.push_back(static_cast<int>(g) == c.empty_slot ? kNaN : sum);
      }
    }
  }
  expected.resize(expected.size() + static_cast<size_t>(c.rows_behind) * c.n, kNaN);
  return expected;
}

}  // namespace tessera::test
