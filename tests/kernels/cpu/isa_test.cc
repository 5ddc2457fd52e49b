// The vector kernels of every instruction set this machine has, against formulas in double and
// against each other.
#include "kernels/cpu/isa/isa.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>

#include "tests/kernels/op_test.h"

namespace tessera::cpu {
namespace {

using test::ForSeeds;
using test::Random;
using test::WorstError;

class IsaTest : public testing::TestWithParam<Isa> {
 protected:
  const Kernels& kernels() const { return KernelsOf(GetParam()); }
};
INSTANTIATE_TEST_SUITE_P(Supported, IsaTest, testing::ValuesIn(SupportedIsas()),
                         [](const auto& test_case) {
                           return std::string(IsaName(test_case.param));
                         });

float Exp(const Kernels& kernels, float x) {
  float result = 0;
  kernels.exp(&x, 0.0F, 1, &result);
  return result;
}

TEST_P(IsaTest, ExpIsWithinTwoUnitsInTheLastPlace) {
  std::vector<float> x;
  for (float value = -87.2F; value < 88.6F; value += 0.00371F) x.push_back(value);
  std::vector<float> actual(x.size());
  kernels().exp(x.data(), 0.0F, static_cast<int64_t>(x.size()), actual.data());
  for (size_t i = 0; i < x.size(); ++i) {
    const double exact = std::exp(static_cast<double>(x[i]));
    const auto nearest = static_cast<float>(exact);
    const double unit = std::nextafter(nearest, HUGE_VALF) - nearest;
    // Without a fused multiply-add the argument reduction rounds once more.
    const double allowed = GetParam() == Isa::kPortable ? 4 : 2;
    ASSERT_LE(std::abs(actual[i] - exact), allowed * unit) << "exp(" << x[i] << ")";
  }
}

TEST_P(IsaTest, ExpAtTheEdges) {
  const float infinity = std::numeric_limits<float>::infinity();
  EXPECT_EQ(Exp(kernels(), 0.0F), 1.0F);
  EXPECT_EQ(Exp(kernels(), -infinity), 0.0F);
  EXPECT_EQ(Exp(kernels(), -100.0F), 0.0F);
  EXPECT_GT(Exp(kernels(), infinity), 3e38F);
  EXPECT_TRUE(std::isfinite(Exp(kernels(), infinity)));
  EXPECT_TRUE(std::isnan(Exp(kernels(), std::nanf(""))));
}

TEST_P(IsaTest, RoundsToBfloat16AsTheScalarDoes) {
  ForSeeds(20, [&](Random& random) {
    std::vector<float> x(random.Int(1, 50));
    for (float& value : x) {
      auto bits = static_cast<uint32_t>(random.Int(0, std::numeric_limits<uint32_t>::max()));
      if (random.Chance(0.3)) bits = (bits & 0xffff0000U) | 0x8000U;  // A tie.
      std::memcpy(&value, &bits, sizeof(value));
    }
    x[0] = std::nanf("");
    std::vector<uint16_t> actual(x.size() + 1, 0xabcd);
    kernels().to_bf16(x.data(), static_cast<int64_t>(x.size()), actual.data());
    for (size_t i = 0; i < x.size(); ++i) EXPECT_EQ(actual[i], FloatToBF16(x[i])) << x[i];
    EXPECT_EQ(actual.back(), 0xabcd);
  });
}

TEST_P(IsaTest, Transposes) {
  std::vector<char> memory(1 + 16 * 16 * 4);  // Rows may lie anywhere, odd addresses included.
  std::vector<const void*> rows;
  for (uint32_t i = 0; i < 16; ++i) {
    char* row = memory.data() + 1 + static_cast<size_t>(15 - i) * 64;
    for (uint32_t j = 0; j < 16; ++j) {
      const uint32_t word = i << 16 | j;
      std::memcpy(row + j * 4, &word, sizeof(word));
    }
    rows.push_back(row);
  }
  std::vector<uint32_t> out(256);
  kernels().transpose(rows.data(), out.data());
  for (uint32_t i = 0; i < 16; ++i) {
    for (uint32_t j = 0; j < 16; ++j) EXPECT_EQ(out[j * 16 + i], (i << 16 | j));
  }
}

// A product with packed panels filled by the definition of their layout.
struct Case {
  int64_t rows;
  int64_t k;
  int64_t columns;
  bool bf16;
  std::vector<float> x;     // [rows, k]
  std::vector<float> w;     // [columns, k]
  std::vector<float> bias;  // [columns] or empty
  std::vector<char> panels;
};

Case RandomCase(Random& random) {
  Case c{.rows = random.OneOf({1, 2, 3, 4, 5, 6, 7, 11, 24, 25, 40, 191, 192}),
         .k = random.OneOf({1, 2, 9, 64, 255, 256, 257, 600}),
         .columns = random.OneOf({1, 15, 16, 17, 32, 64, 70, 130}),
         .bf16 = random.Chance(0.6)};
  c.x = random.Normals(c.rows * c.k);
  c.w = test::RoundTo(c.bf16 ? DType::kBF16 : DType::kF32, random.Normals(c.columns * c.k));
  if (random.Chance(0.5)) c.bias = random.Normals(c.columns);
  const int64_t element = c.bf16 ? 2 : 4;
  const int64_t panel = PanelSize(c.k, c.bf16);
  c.panels.assign((c.columns + kPanel - 1) / kPanel * panel * element, 0);
  for (int64_t n = 0; n < c.columns; ++n) {
    for (int64_t k = 0; k < c.k; ++k) {
      const float value = c.w[n * c.k + k];
      const int64_t begin = n / kPanel * panel;
      if (c.bf16) {
        const uint16_t bits = FloatToBF16(value);
        const int64_t index = begin + k / 2 * 2 * kPanel + n % kPanel * 2 + k % 2;
        std::memcpy(c.panels.data() + index * 2, &bits, sizeof(bits));
      } else {
        std::memcpy(c.panels.data() + (begin + k * kPanel + n % kPanel) * 4, &value, sizeof(value));
      }
    }
  }
  return c;
}

std::vector<float> Multiply(const Kernels& kernels, const Case& c) {
  std::vector<const float*> x;
  for (int64_t r = 0; r < c.rows; ++r) x.push_back(c.x.data() + r * c.k);
  std::vector<float> out(c.rows * c.columns, std::nanf(""));
  std::vector<float> scratch(kMatMulScratch);
  kernels.mat_mul({.x = x.data(),
                   .rows = c.rows,
                   .k = c.k,
                   .panels = c.panels.data(),
                   .bf16 = c.bf16,
                   .columns = c.columns,
                   .out = out.data(),
                   .out_stride = c.columns,
                   .bias = c.bias.empty() ? nullptr : c.bias.data(),
                   .scratch = scratch.data()});
  return out;
}

TEST_P(IsaTest, MultipliesAsTheFormula) {
  ForSeeds(60, [&](Random& random) {
    const Case c = RandomCase(random);
    std::vector<double> expected;
    for (int64_t r = 0; r < c.rows; ++r) {
      for (int64_t n = 0; n < c.columns; ++n) {
        double sum = c.bias.empty() ? 0.0 : c.bias[n];
        for (int64_t k = 0; k < c.k; ++k) {
          sum += static_cast<double>(c.x[r * c.k + k]) * c.w[n * c.k + k];
        }
        expected.push_back(sum);
      }
    }
    EXPECT_LE(WorstError(Multiply(kernels(), c), expected), 2e-5)
        << c.rows << "x" << c.columns << "x" << c.k << (c.bf16 ? " bf16" : " f32");
  });
}

// Instruction sets with a fused multiply-add differ in width only, which no result shows.
TEST_P(IsaTest, GivesTheBitsOfAvx2) {
  if (GetParam() == Isa::kPortable) GTEST_SKIP() << "rounds products on its own";
  if (GetParam() == Isa::kAvx2) GTEST_SKIP() << "is what the others are compared with";
  ForSeeds(30, [&](Random& random) {
    const Case c = RandomCase(random);
    EXPECT_EQ(Multiply(kernels(), c), Multiply(KernelsOf(Isa::kAvx2), c));
    const int64_t size = 2 * random.Int(1, 70);
    const std::vector<float> a = random.Normals(size, 3.0F);
    const std::vector<float> b = random.Normals(size);
    std::vector<float> expected(size);
    std::vector<float> actual(size);
    std::vector<float> scratch(size);
    const auto compare = [&](const auto& run) {
      run(KernelsOf(Isa::kAvx2), expected.data());
      run(kernels(), actual.data());
      EXPECT_EQ(actual, expected);
    };
    compare([&](const Kernels& k, float* out) { k.exp(a.data(), 1.0F, size, out); });
    compare([&](const Kernels& k, float* out) { k.silu_and_mul(a.data(), b.data(), size, out); });
    compare([&](const Kernels& k, float* out) {
      std::vector<float> x = a;
      k.rms_norm(x.data(), b.data(), b.data(), 1e-6F, size, out);
    });
    compare([&](const Kernels& k, float* out) {
      k.norm_rope(a.data(), b.data(), a.data(), 1e-6F, size, scratch.data(), out);
    });
    compare([&](const Kernels& k, float* out) { out[0] = k.sum_exp(a.data(), 2.0F, size); });
  });
}

}  // namespace
}  // namespace tessera::cpu
