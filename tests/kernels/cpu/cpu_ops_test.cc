// What only this backend does: large products in blocks, attention in spans, on every instruction
// set and any number of threads. The operation tests run against it as well.
#include "kernels/cpu/cpu_ops.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "kernels/cpu/isa/isa.h"
#include "tests/kernels/op_test.h"

namespace tessera {
namespace {

using cpu::Isa;
using test::ForSeeds;
using test::Random;
using test::TestTensor;

class CpuOpsTest : public testing::TestWithParam<Isa> {
 protected:
  std::unique_ptr<Ops> Create(int threads) const {
    return *CreateCpuOps(
        {.backend = "cpu", .num_threads = threads, .cpu_isa = cpu::IsaName(GetParam())});
  }
  // Over bfloat16 keys and values.
  double AttentionTolerance() const {
    return cpu::KernelsOf(GetParam()).mat_mul_rounded == nullptr ? 1e-5 : 2e-2;
  }
};
INSTANTIATE_TEST_SUITE_P(Supported, CpuOpsTest, testing::ValuesIn(cpu::SupportedIsas()),
                         [](const auto& test_case) {
                           return std::string(cpu::IsaName(test_case.param));
                         });

std::vector<float> Product(Ops& ops, const Weight& weight, const std::vector<float>& x,
                           int64_t rows) {
  const TestTensor input(ops.device(), DType::kF32, {rows, weight.cols()}, x);
  const TestTensor out(ops.device(), DType::kF32, {rows, weight.rows()});
  ops.Gemm({.x = input, .weight = &weight, .bias = {}, .out = out});
  return out.Floats();
}

TEST_P(CpuOpsTest, RowsOfLargeProductsHaveTheBitsOfSingleRows) {
  ForSeeds(4, [&](Random& random) {
    const int64_t rows = random.OneOf({30, 193, 400});
    const int64_t k = random.OneOf({100, 300, 513});
    const int64_t n = random.OneOf({200, 216, 400});
    const std::unique_ptr<Ops> ops = Create(3);
    const std::vector<float> w = random.Normals(n * k);
    const DType dtype = random.Chance(0.5) ? DType::kBF16 : DType::kF32;
    const auto weight =
        ops->PrepareWeight({.parts = {{w.data(), DType::kF32, n, k, k}}, .dtype = dtype});
    ASSERT_TRUE(weight.ok());
    const std::vector<float> x = random.Normals(rows * k);
    const std::vector<float> all = Product(*ops, **weight, x, rows);
    for (int64_t r = 0; r < rows; r += 29) {
      const std::vector<float> row(x.begin() + r * k, x.begin() + (r + 1) * k);
      const std::vector<float> expected(all.begin() + r * n, all.begin() + (r + 1) * n);
      EXPECT_EQ(Product(*ops, **weight, row, 1), expected) << "row " << r;
    }
  });
}

// One sequence in one block table.
struct Context {
  int64_t length;
  int64_t heads;  // query heads of the one KV head
  int64_t head_dim;
  int32_t window;
  std::vector<float> q;  // [length, heads * head_dim]
  std::vector<float> k;  // [length, head_dim]
  std::vector<float> v;
};

// The outputs of positions [begin, end), computed by one call.
std::vector<float> Attend(Ops& ops, const Context& c, int64_t begin, int64_t end) {
  constexpr int64_t kBlock = 16;
  const int64_t blocks = (c.length + kBlock - 1) / kBlock;
  std::vector<float> k(c.k);
  std::vector<float> v(c.v);
  k.resize(blocks * kBlock * c.head_dim, std::nanf(""));
  v.resize(blocks * kBlock * c.head_dim, std::nanf(""));
  std::vector<int32_t> table(blocks);
  std::iota(table.begin(), table.end(), 0);
  const int64_t width = c.heads * c.head_dim;
  const std::vector<float> q(c.q.begin() + begin * width, c.q.begin() + end * width);
  const TestTensor q_tensor(ops.device(), DType::kF32, {end - begin, width}, q);
  const TestTensor k_tensor(ops.device(), DType::kBF16, {blocks, 1, kBlock, c.head_dim}, k);
  const TestTensor v_tensor(ops.device(), DType::kBF16, {blocks, 1, kBlock, c.head_dim}, v);
  const TestTensor tables = TestTensor::Ints(ops.device(), {1, blocks}, table);
  const TestTensor cu_seqlens =
      TestTensor::Ints(ops.device(), {2}, {0, static_cast<int32_t>(end - begin)});
  const TestTensor lens = TestTensor::Ints(ops.device(), {1}, {static_cast<int32_t>(end)});
  const TestTensor out(ops.device(), DType::kF32, {end - begin, width});
  ops.PagedAttention({.q = q_tensor,
                      .kv = {k_tensor, v_tensor},
                      .block_tables = tables,
                      .cu_seqlens = cu_seqlens,
                      .context_lens = lens,
                      .num_q_heads = static_cast<int32_t>(c.heads),
                      .num_kv_heads = 1,
                      .window = c.window,
                      .scale = 0.3F,
                      .out = out});
  return out.Floats();
}

std::vector<double> Formula(const Context& c, int64_t position) {
  std::vector<double> out(c.heads * c.head_dim);
  for (int64_t h = 0; h < c.heads; ++h) {
    const float* q = c.q.data() + (position * c.heads + h) * c.head_dim;
    double total = 0;
    for (int64_t j = 0; j <= position; ++j) {
      if (c.window > 0 && j <= position - c.window) continue;
      double score = 0;
      for (int64_t i = 0; i < c.head_dim; ++i) {
        score += static_cast<double>(q[i]) * c.k[j * c.head_dim + i];
      }
      const double weight = std::exp(score * 0.3F);
      total += weight;
      for (int64_t i = 0; i < c.head_dim; ++i) {
        out[h * c.head_dim + i] += weight * c.v[j * c.head_dim + i];
      }
    }
    for (int64_t i = 0; i < c.head_dim; ++i) out[h * c.head_dim + i] /= total;
  }
  return out;
}

TEST_P(CpuOpsTest, LongContextsGiveTheSameBitsWholeSplitAndInChunks) {
  ForSeeds(3, [&](Random& random) {
    Context c{.length = random.OneOf({513, 700, 1100}),
              .heads = random.OneOf({1, 2}),
              .head_dim = random.OneOf({8, 24, 40}),
              .window = static_cast<int32_t>(random.OneOf({0, 0, 600}))};
    c.q = random.Normals(c.length * c.heads * c.head_dim);
    c.k = test::RoundTo(DType::kBF16, random.Normals(c.length * c.head_dim));
    c.v = test::RoundTo(DType::kBF16, random.Normals(c.length * c.head_dim));
    const std::unique_ptr<Ops> one = Create(1);
    const std::unique_ptr<Ops> three = Create(3);
    const int64_t width = c.heads * c.head_dim;
    const std::vector<float> whole = Attend(*one, c, 0, c.length);
    EXPECT_EQ(Attend(*three, c, 0, c.length), whole);
    for (int64_t begin : {int64_t{100}, int64_t{511}, int64_t{512}, c.length - 1}) {
      const int64_t end = std::min(c.length, begin + random.OneOf({1, 1, 40}));
      const std::vector<float> expected(whole.begin() + begin * width, whole.begin() + end * width);
      EXPECT_EQ(Attend(*three, c, begin, end), expected) << begin << " to " << end;
      EXPECT_EQ(Attend(*one, c, begin, end), expected) << begin << " to " << end;
      const std::vector<float> row(expected.begin(), expected.begin() + width);
      EXPECT_LE(test::WorstError(row, Formula(c, begin)), AttentionTolerance())
          << "position " << begin;
    }
  });
}

// More heads share a KV head than a tile has rows.
TEST_P(CpuOpsTest, AttendsWithManyHeadsPerKvHead) {
  Random random(1);
  Context c{.length = 20, .heads = 140, .head_dim = 8, .window = 0};
  c.q = random.Normals(c.length * c.heads * c.head_dim);
  c.k = test::RoundTo(DType::kBF16, random.Normals(c.length * c.head_dim));
  c.v = test::RoundTo(DType::kBF16, random.Normals(c.length * c.head_dim));
  const std::unique_ptr<Ops> ops = Create(3);
  const std::vector<float> whole = Attend(*ops, c, 0, c.length);
  const int64_t width = c.heads * c.head_dim;
  for (int64_t position = 0; position < c.length; ++position) {
    const std::vector<float> row(whole.begin() + position * width,
                                 whole.begin() + (position + 1) * width);
    EXPECT_LE(test::WorstError(row, Formula(c, position)), AttentionTolerance())
        << "position " << position;
  }
}

// A bfloat16 source that is kept for float32 use must be multiplied by unrounded activations.
TEST_P(CpuOpsTest, Float32WeightsDoNotRoundActivations) {
  Random random(3);
  const int64_t n = 40;
  const int64_t k = 96;
  const std::vector<float> x = random.Normals(5 * k);
  const std::vector<float> w = test::RoundTo(DType::kBF16, random.Normals(n * k));
  std::vector<uint16_t> bits;
  for (float value : w) bits.push_back(FloatToBF16(value));
  const std::unique_ptr<Ops> ops = Create(1);
  const auto stored =
      ops->PrepareWeight({.parts = {{bits.data(), DType::kBF16, n, k, k}}, .dtype = DType::kF32});
  const auto wide =
      ops->PrepareWeight({.parts = {{w.data(), DType::kF32, n, k, k}}, .dtype = DType::kF32});
  ASSERT_TRUE(stored.ok() && wide.ok());
  EXPECT_LT((*stored)->bytes(), (*wide)->bytes());
  EXPECT_EQ(Product(*ops, **stored, x, 5), Product(*ops, **wide, x, 5));
}

TEST(CreateCpuOpsTest, RefusesInstructionSetsThatAreNotThere) {
  const auto ops = CreateCpuOps({.cpu_isa = "mmx"});
  EXPECT_EQ(ops.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(ops.status().message()), testing::HasSubstr("portable"));
}

TEST_P(CpuOpsTest, KeepsTheBitsOfBfloat16Sources) {
  const std::unique_ptr<Ops> ops = Create(1);
  const std::vector<uint16_t> w(48);
  const HostMatrix bf16{w.data(), DType::kBF16, 3, 16, 16};
  const auto exact = ops->PrepareWeight({.parts = {bf16}, .dtype = DType::kF32});
  ASSERT_TRUE(exact.ok());
  EXPECT_EQ((*exact)->bytes(), 16U * 16 * 2) << "a bfloat16 source needs no wider copy";
  const std::vector<float> wide(48);
  const HostMatrix f32{wide.data(), DType::kF32, 3, 16, 16};
  const auto mixed = ops->PrepareWeight({.parts = {bf16, f32}, .dtype = DType::kF32});
  ASSERT_TRUE(mixed.ok());
  EXPECT_EQ((*mixed)->bytes(), 16U * 16 * 4);
}

}  // namespace
}  // namespace tessera
