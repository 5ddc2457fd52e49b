// Instructions that order or move memory, and mathematics: on emulated GPUs and, as tests/gpu's
// self-test, on real ones.
#include "tests/kernels/cuda/memory_instructions.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "kernels/cuda/simt/simt.h"
#include "kernels/cuda/tensor_map.h"
#include "tests/kernels/cuda/gpu_array.h"
#include "tests/kernels/cuda/gpu_support.h"

namespace tessera {
namespace {

template <typename T>
std::vector<T> Zeros(size_t size) {
  return std::vector<T>(size, 0);
}

TEST(MemoryInstructions, Atomics) {
  GpuArray<uint32_t> narrow(Zeros<uint32_t>(cuda::kNarrowWords));
  GpuArray<uint64_t> wide(Zeros<uint64_t>(cuda::kWideWords));
  ASSERT_EQ(cuda::AtomicWords(nullptr, narrow.get(), wide.get()), cudaSuccess);
  std::vector<uint32_t> got = narrow.Values();
  const std::vector<uint64_t> got_wide = wide.Values();
  ASSERT_TRUE(Ended());
  got[4] += got[5];  // every value of the exchange but the last was got by somebody
  got[5] = 0;
  uint32_t sum[2] = {};
  uint32_t largest[2] = {};
  uint64_t wide_sum[2] = {};
  for (uint32_t i = 0; i < 128; ++i) {
    sum[i / 64] += i + 1;
    largest[i / 64] = std::max(largest[i / 64], i * 37 % 101);
    wide_sum[i / 64] += (uint64_t{1} << 33) + i;
  }
  const uint32_t total = sum[0] + sum[1];
  const uint32_t bits = 0x55555555;
  EXPECT_EQ(got, (std::vector<uint32_t>{total, std::max(largest[0], largest[1]), bits, 128, total,
                                        0, sum[0], largest[0], bits, sum[1], largest[1], bits}));
  EXPECT_EQ(got_wide, (std::vector<uint64_t>{wide_sum[0] + wide_sum[1], uint64_t{127} << 40,
                                             wide_sum[0], wide_sum[1]}));
}

TEST(MemoryInstructions, ReleaseAndAcquire) {
  GpuArray<uint32_t> flags(Zeros<uint32_t>(2)), words(2), out(2);
  ASSERT_EQ(
      cuda::ReleaseWords(nullptr, {.flags = flags.get(), .words = words.get(), .out = out.get()}),
      cudaSuccess);
  const std::vector<uint32_t> got = out.Values();
  ASSERT_TRUE(Ended());
  EXPECT_EQ(got, (std::vector<uint32_t>{7, 9}));
}

TEST(MemoryInstructions, AsynchronousCopiesAndNamedBarriers) {
  std::vector<uint32_t> in(32 * 4);
  for (size_t i = 0; i < in.size(); ++i) in[i] = static_cast<uint32_t>(0x01020304 + 0x11111 * i);
  std::vector<uint32_t> want = Zeros<uint32_t>(in.size());
  for (size_t lane = 0; lane < 32; ++lane) {
    std::memcpy(&want[lane * 4], &in[lane * 4], lane % 17);
  }
  GpuArray<uint32_t> from(in), to(in.size());
  ASSERT_EQ(cuda::CopyWords(nullptr, from.get(), to.get()), cudaSuccess);
  const std::vector<uint32_t> got = to.Values();
  ASSERT_TRUE(Ended());
  EXPECT_EQ(got, want);
}

// Units in the last place between two finite numbers of the same sign.
int64_t UlpsBetween(uint32_t got, float want) {
  return std::abs(int64_t{got} - int64_t{std::bit_cast<uint32_t>(want)});
}

TEST(MemoryInstructions, Mathematics) {
  const std::vector<float> in{0.0F,  -0.0F,  1.0F,    -1.0F,        0.3F,       -2.7F,
                              10.5F, 88.0F,  -86.25F, 1e-3F,        3.1415F,    1.00390625F,
                              1e30F, -1e30F, 1e-30F,  0.998046875F, 1.01171875F};
  GpuArray<float> x(in);
  GpuArray<uint32_t> out(in.size() * cuda::kMathWords);
  ASSERT_EQ(cuda::MathWords(nullptr, static_cast<int>(in.size()), x.get(), out.get()), cudaSuccess);
  const std::vector<uint32_t> got = out.Values();
  ASSERT_TRUE(Ended());
  constexpr int64_t kUlps = 2;
  for (size_t i = 0; i < in.size(); ++i) {
    SCOPED_TRACE(in[i]);
    const uint32_t* words = &got[i * cuda::kMathWords];
    const double value = in[i];
    const float size = std::abs(in[i]);
    const float rounded[] = {
        static_cast<float>(std::exp2(value)), static_cast<float>(std::exp(value)),
        static_cast<float>(std::log(std::abs(value))), static_cast<float>(std::sin(value)),
        static_cast<float>(std::cos(value))};
    for (int word = 0; word < 5; ++word) {
      // Results below the normal numbers may be flushed.
      if (std::abs(rounded[word]) < std::numeric_limits<float>::min()) {
        EXPECT_LT(std::abs(std::bit_cast<float>(words[word])), std::numeric_limits<float>::min());
      } else {
        EXPECT_LE(UlpsBetween(words[word], rounded[word]), kUlps) << word;
      }
    }
    const float root = std::sqrt(size);
    EXPECT_EQ(words[5], std::bit_cast<uint32_t>(std::fma(in[i], 1.5F, 0.1F)));
    EXPECT_EQ(words[6], std::bit_cast<uint32_t>(root));
    EXPECT_EQ(words[7], std::bit_cast<uint32_t>(1.0F / root));
    EXPECT_EQ(words[8], simt::RoundToBf16(in[i]));
    EXPECT_EQ(words[9], simt::RoundToBf16(in[i]) | uint32_t{simt::RoundToBf16(-in[i])} << 16);
  }
}

TEST(MemoryInstructions, DependentLaunches) {
  GpuArray<uint32_t> between(64), out(64);
  ASSERT_EQ(cuda::DependentWords(nullptr, between.get(), out.get()), cudaSuccess);
  const std::vector<uint32_t> got = out.Values();
  ASSERT_TRUE(Ended());
  for (uint32_t i = 0; i < 64; ++i) EXPECT_EQ(got[i], 3 * i + 1);
}

class Sm90Instructions : public testing::Test {
 protected:
  void SetUp() override {
    if (ComputeCapability() < 90) GTEST_SKIP() << "needs sm_90";
  }
};

TEST_F(Sm90Instructions, MBarriers) {
  GpuArray<uint32_t> out(32);
  ASSERT_EQ(cuda::BarrierWords(nullptr, out.get()), cudaSuccess);
  const std::vector<uint32_t> got = out.Values();
  ASSERT_TRUE(Ended());
  for (uint32_t i = 0; i < 32; ++i) EXPECT_EQ(got[i], 5 * i);
}

TEST_F(Sm90Instructions, Clusters) {
  GpuArray<uint32_t> out(2);
  ASSERT_EQ(cuda::PeerWords(nullptr, out.get()), cudaSuccess);
  const std::vector<uint32_t> got = out.Values();
  ASSERT_TRUE(Ended());
  EXPECT_EQ(got, (std::vector<uint32_t>{101, 100}));
}

constexpr int kMatrixRows = 40;
std::vector<uint16_t> Matrix() {
  std::vector<uint16_t> matrix(kMatrixRows * 64);
  for (size_t i = 0; i < matrix.size(); ++i) matrix[i] = static_cast<uint16_t>(i + 1);
  return matrix;
}

TEST_F(Sm90Instructions, TmaSwizzlesAndFillsWithZeros) {
  std::vector<uint16_t> matrix = Matrix();
  GpuArray<uint16_t> in(matrix), out(64 * 64);
  simt::TensorMap map;
  ASSERT_EQ(
      cuda::EncodeTensorMap(
          {.data = in.get(), .rows = kMatrixRows, .cols = 64, .stride = 64, .box_rows = 64}, &map),
      cudaSuccess);
  GpuArray<simt::TensorMap> maps(std::vector<simt::TensorMap>{map});
  ASSERT_EQ(cuda::BoxWords(nullptr, maps.get(), out.get()), cudaSuccess);
  const std::vector<uint16_t> got = out.Values();
  ASSERT_TRUE(Ended());
  matrix.resize(64 * 64);
  EXPECT_EQ(got, matrix);
}

TEST_F(Sm90Instructions, TmaLoadsForBothBlocksOfAPair) {
  std::vector<uint16_t> matrix = Matrix();
  GpuArray<uint16_t> in(matrix), out(2 * 64 * 64);
  simt::TensorMap map;
  ASSERT_EQ(
      cuda::EncodeTensorMap(
          {.data = in.get(), .rows = kMatrixRows, .cols = 64, .stride = 64, .box_rows = 32}, &map),
      cudaSuccess);
  GpuArray<simt::TensorMap> maps(std::vector<simt::TensorMap>{map});
  ASSERT_EQ(cuda::SharedBoxWords(nullptr, maps.get(), out.get()), cudaSuccess);
  const std::vector<uint16_t> got = out.Values();
  ASSERT_TRUE(Ended());
  matrix.resize(64 * 64);
  EXPECT_EQ(std::vector<uint16_t>(got.begin(), got.begin() + 64 * 64), matrix);
  EXPECT_EQ(std::vector<uint16_t>(got.begin() + 64 * 64, got.end()), matrix);
}

}  // namespace
}  // namespace tessera
