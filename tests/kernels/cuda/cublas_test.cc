// cuBLASLt as the library of products: how it is found, and what the backend asks of it.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "kernels/cuda/cublas_library.h"
#include "kernels/cuda/fake/emulated_gpus.h"
#include "tests/kernels/op_test.h"

namespace tessera::test {
namespace {

using testing::HasSubstr;

// One sentence: what is needed, what is wrong, what to install.
void ExpectRefusal(const std::vector<std::string>& files, const std::string& why) {
  const absl::Status status = cuda::LoadCublas(files).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition) << status;
  const std::string message(status.message());
  EXPECT_THAT(message, HasSubstr("--gemm cublas needs cuBLASLt 12 or newer, but "));
  EXPECT_THAT(message, HasSubstr(why));
  EXPECT_THAT(message, HasSubstr("install NVIDIA's libcublas"));
  EXPECT_THAT(message, testing::Not(HasSubstr("\n")));
}

TEST(CublasLibraryTest, SaysWhatIsMissing) {
  ExpectRefusal({"/nowhere/a.so", "/nowhere/b.so"}, "no /nowhere/a.so and no /nowhere/b.so");
  ExpectRefusal({TESSERA_OLD_CUBLAS}, "is version 11.5");
  ExpectRefusal({"/nowhere/a.so", TESSERA_PARTIAL_CUBLAS}, "has no function cublasLtCreate");
  ExpectRefusal({"libm.so.6"}, "does not tell its version");
}

TEST(CublasLibraryTest, LoadsWhatIsInstalled) {
  const std::string file = TESSERA_INSTALLED_CUBLAS;
  if (file.empty()) GTEST_SKIP() << "no cuBLASLt is installed";
  const auto library = cuda::LoadCublas({"/nowhere/libcublasLt.so.13", file});
  ASSERT_TRUE(library.ok()) << library.status();
  EXPECT_GE(library->version, 120000U);
}

TEST(CublasLibraryTest, IsForGpus) {
  const absl::Status status = CreateOps({.backend = "cpu", .gemm = "cublas"}).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr("--gemm cublas is for GPUs"));
}

// A product by both: ours, and the library's.
class CublasGemmTest : public testing::TestWithParam<DType> {
 protected:
  static std::unique_ptr<Ops> Create(std::string_view gemm) {
    auto ops = CreateOps({.backend = "cuda-emulated", .gemm = gemm});
    TESSERA_CHECK(ops.ok());
    return *std::move(ops);
  }

  struct Case {
    int64_t rows, n, k, x_gap, out_gap;
    bool bias;
    DType out;
    std::vector<float> x, weight, bias_values;
  };
  static Case RandomCase(Random& random) {
    Case c{.rows = random.Int(1, 12),
           .n = random.Int(1, 40),
           .k = random.Int(1, 70),
           .x_gap = random.Int(0, 9),
           .out_gap = random.Int(0, 5),
           .bias = random.Chance(0.3),
           .out = random.Chance(0.5) ? GetParam() : DType::kF32};
    c.x = RoundTo(GetParam(), random.Normals(c.rows * c.k));
    c.weight = RoundTo(GetParam(), random.Normals(c.n * c.k));
    c.bias_values = random.Normals(c.n);
    return c;
  }

  // Rows [0, rows) of the case's product.
  static std::vector<float> Product(Ops& ops, const Case& c, int64_t rows) {
    const auto weight = ops.PrepareWeight({.parts = {{.data = c.weight.data(),
                                                      .dtype = DType::kF32,
                                                      .rows = c.n,
                                                      .cols = c.k,
                                                      .row_stride = c.k}},
                                           .dtype = GetParam()});
    TESSERA_CHECK(weight.ok());
    const std::vector<float> part(c.x.begin(), c.x.begin() + rows * c.k);
    const TestTensor x(ops.device(), GetParam(), {rows, c.k}, part, c.x_gap);
    const TestTensor bias(ops.device(), DType::kF32, {c.n}, c.bias_values);
    TestTensor out(ops.device(), c.out, {rows, c.n}, c.out_gap);
    GemmArgs args{.x = x, .weight = weight->get(), .bias = {}, .out = out};
    if (c.bias) args.bias = bias;
    ops.Gemm(args);
    x.ExpectUnchanged();
    return out.Floats();
  }
};

TEST_P(CublasGemmTest, AgreesWithOurs) {
  const auto ours = Create("ours");
  const auto cublas = Create("cublas");
  ForSeeds(12, [&](Random& random) {
    const Case c = RandomCase(random);
    const double error = WorstError(Product(*cublas, c, c.rows), Product(*ours, c, c.rows));
    EXPECT_LE(error, 1e-4 + 2 * RoundingError(c.out)) << c.rows << "x" << c.n << "x" << c.k;
  });
  EXPECT_EQ(simt::fake::AnyReport(), "");
}

// Shows that the library was asked: ours keep the bits.
TEST_P(CublasGemmTest, BitsMayDependOnTheBatch) {
  Random random(7);
  Case c = RandomCase(random);
  c.rows = 12;
  c.n = 32;
  c.k = 64;
  c.x_gap = c.out_gap = 0;
  c.bias = false;
  c.out = DType::kF32;
  c.x = RoundTo(GetParam(), random.Normals(c.rows * c.k));
  c.weight = RoundTo(GetParam(), random.Normals(c.n * c.k));
  c.bias_values = random.Normals(c.n);
  for (const std::string gemm : {"ours", "cublas"}) {
    const auto ops = Create(gemm);
    const std::vector<float> alone = Product(*ops, c, 1);
    std::vector<float> together = Product(*ops, c, c.rows);
    together.resize(alone.size());
    EXPECT_EQ(alone == together, gemm == "ours") << gemm;
  }
}

INSTANTIATE_TEST_SUITE_P(Types, CublasGemmTest, testing::Values(DType::kF32, DType::kBF16));

}  // namespace
}  // namespace tessera::test
