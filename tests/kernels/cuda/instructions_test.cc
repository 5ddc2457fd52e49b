// The instructions of ptx.h against plain loops over the same numbers: their CPU bodies on emulated
// GPUs and, as tests/gpu's self-test, the assembly on real ones. All sums here are exact.
#include "tests/kernels/cuda/instructions.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <random>
#include <vector>

#include "kernels/cuda/tensor_map.h"
#include "tests/kernels/cuda/gpu_array.h"
#include "tests/kernels/cuda/gpu_support.h"

namespace tessera {

namespace {

using cuda::MmaType;
using simt::Bf16;

std::vector<float> SmallIntegers(size_t n, unsigned seed) {
  std::mt19937 generator(seed);
  std::vector<float> values(n);
  for (float& v : values) v = static_cast<float>(generator() % 17) - 8;
  return values;
}

std::vector<float> Product(const std::vector<float>& a, const std::vector<float>& b, int n, int k) {
  const int m = static_cast<int>(a.size()) / k;
  std::vector<float> out(static_cast<size_t>(m) * n);
  for (int i = 0; i < m; ++i) {
    for (int j = 0; j < n; ++j) {
      for (int l = 0; l < k; ++l) out[i * n + j] += a[i * k + l] * b[j * k + l];
    }
  }
  return out;
}

// 8-bit floats: 1 sign, 4 exponent, 3 mantissa bits; only for what SmallIntegers gives.
uint8_t ToE4m3(float v) {
  if (v == 0) return 0;
  const int exponent = std::ilogb(std::abs(v));
  const int mantissa = static_cast<int>(std::ldexp(std::abs(v), 3 - exponent)) - 8;
  return static_cast<uint8_t>((v < 0 ? 0x80 : 0) | (exponent + 7) << 3 | mantissa);
}

template <typename Element, typename Convert>
std::vector<uint32_t> Packed(const std::vector<float>& values, Convert convert) {
  std::vector<uint32_t> words(values.size() * sizeof(Element) / 4);
  auto* elements = reinterpret_cast<Element*>(words.data());
  for (size_t i = 0; i < values.size(); ++i) elements[i] = convert(values[i]);
  return words;
}

template <typename Out>
void ExpectMma(MmaType type, int k,
               const std::function<std::vector<uint32_t>(const std::vector<float>&)>& pack) {
  const std::vector<float> a = SmallIntegers(static_cast<size_t>(16) * k, 1);
  const std::vector<float> b = SmallIntegers(static_cast<size_t>(8) * k, 2);
  GpuArray<uint32_t> da(pack(a)), db(pack(b));
  GpuArray<Out> out(128);
  ASSERT_EQ(cuda::MmaTile(nullptr, type, da.get(), db.get(), out.get()), cudaSuccess);
  const std::vector<Out> got = out.Values();
  ASSERT_TRUE(Ended());
  const std::vector<float> want = Product(a, b, 8, k);
  for (size_t i = 0; i < want.size(); ++i) ASSERT_EQ(static_cast<float>(got[i]), want[i]) << i;
}

TEST(Instructions, Mma) {
  ExpectMma<float>(MmaType::kBf16, 16, [](const std::vector<float>& v) {
    return Packed<uint16_t>(v, simt::RoundToBf16);
  });
  ExpectMma<int>(MmaType::kInt8, 32, [](const std::vector<float>& v) {
    return Packed<int8_t>(v, [](float x) { return static_cast<int8_t>(x); });
  });
  if (ComputeCapability() < 89) return;
  ExpectMma<float>(MmaType::kE4m3, 32,
                   [](const std::vector<float>& v) { return Packed<uint8_t>(v, ToE4m3); });
}

TEST(Instructions, LdMatrix) {
  std::vector<uint16_t> matrices(256);
  for (size_t i = 0; i < matrices.size(); ++i) matrices[i] = static_cast<uint16_t>(i);
  GpuArray<uint16_t> in(matrices);
  for (const bool trans : {false, true}) {
    GpuArray<uint32_t> out(128);
    ASSERT_EQ(cuda::LdMatrixTile(nullptr, trans, in.get(), out.get()), cudaSuccess);
    const std::vector<uint32_t> got = out.Values();
    ASSERT_TRUE(Ended());
    for (int lane = 0; lane < 32; ++lane) {
      for (int m = 0; m < 4; ++m) {
        const int row = lane / 4, column = lane % 4 * 2;
        const auto at = [&](int r, int c) { return static_cast<uint32_t>(m * 64 + r * 8 + c); };
        const uint32_t low = trans ? at(column, row) : at(row, column);
        const uint32_t high = trans ? at(column + 1, row) : at(row, column + 1);
        ASSERT_EQ(got[lane * 4 + m], low | high << 16) << lane << " " << m;
      }
    }
  }
}

simt::TensorMap MapOf(const Bf16* x, int32_t rows) {
  simt::TensorMap map;
  EXPECT_EQ(cuda::EncodeTensorMap(
                {.data = x, .rows = rows, .cols = 64, .stride = 64, .box_rows = rows}, &map),
            cudaSuccess);
  return map;
}

TEST(Instructions, WgmmaOfTilesThatTmaLoads) {
  if (ComputeCapability() != 90) GTEST_SKIP() << "wgmma is of sm_90a alone";
  const std::vector<float> a = SmallIntegers(64 * 64, 3), b = SmallIntegers(128 * 64, 4);
  const auto round = [](const std::vector<float>& v) {
    std::vector<Bf16> rounded;
    for (float x : v) rounded.push_back(simt::ToBf16(x));
    return rounded;
  };
  GpuArray<Bf16> da(round(a)), db(round(b));
  const cuda::WgmmaMaps maps{MapOf(da.get(), 64), MapOf(db.get(), 128)};
  for (const int n : {8, 16, 32, 64, 128}) {
    GpuArray<float> out(64 * n);
    ASSERT_EQ(cuda::WgmmaTile(nullptr, n, maps, out.get()), cudaSuccess);
    const std::vector<float> got = out.Values();
    ASSERT_TRUE(Ended());
    EXPECT_EQ(got, Product(a, b, n, 64)) << n;
  }
}

TEST(Instructions, WgmmaOfRegistersAndPanels) {
  if (ComputeCapability() != 90) GTEST_SKIP() << "wgmma is of sm_90a alone";
  constexpr int kRows = cuda::kPanelRows;
  const std::vector<float> a = SmallIntegers(64 * kRows, 5), b = SmallIntegers(kRows * 128, 6);
  std::vector<Bf16> rounded;
  for (float x : b) rounded.push_back(simt::ToBf16(x));
  GpuArray<uint32_t> da(Packed<uint16_t>(a, simt::RoundToBf16));
  GpuArray<Bf16> db(rounded);
  simt::TensorMap map;
  ASSERT_EQ(
      cuda::EncodeTensorMap(
          {.data = db.get(), .rows = kRows, .cols = 128, .stride = 128, .box_rows = kRows}, &map),
      cudaSuccess);
  for (const int n : {64, 128}) {
    GpuArray<float> out(64 * n);
    ASSERT_EQ(cuda::WgmmaPanelsTile(nullptr, n, da.get(), map, out.get()), cudaSuccess);
    const std::vector<float> got = out.Values();
    ASSERT_TRUE(Ended());
    std::vector<float> columns(static_cast<size_t>(n) * kRows);
    for (int j = 0; j < n; ++j) {
      for (int k = 0; k < kRows; ++k) columns[j * kRows + k] = b[k * 128 + j];
    }
    EXPECT_EQ(got, Product(a, columns, n, kRows)) << n;
  }
}

uint64_t WantedWarpWord(int word, uint32_t lane) {
  const auto v = [](uint32_t l) -> uint64_t { return 3 * l + 1; };
  uint64_t bits = 0;
  switch (word) {
    case 0:
      return v(5);
    case 1:
      return v(lane / 8 * 8 + 2);
    case 2:
      return v(lane ^ 9);
    case 3:
      return v(lane + 3 < 32 ? lane + 3 : lane);
    case 4:
      return v(lane % 16 >= 3 ? lane - 3 : lane);
    case 5:
      return v(lane ^ 1) << 40 | (lane ^ 1);
    case 6:
      for (uint32_t l = 0; l < 32; l += 3) bits |= 1ULL << l;
      return bits;
    case 7:
      for (uint32_t l = lane % 5; l < 32; l += 5) bits |= 1ULL << l;
      return bits;
    case 8:
      return 3 * 496 + 32;
    case 9:
      return static_cast<uint64_t>(int64_t{-16});
    case 10:
      return 15;
    case 11:
      return 1;
    case 12:
      return 94;
    case 13:
      return 2;
    default:
      return static_cast<uint64_t>(std::popcount(v(lane))) << 16 |
             static_cast<uint64_t>(std::countr_zero(v(lane)) + 1) << 8 |
             static_cast<uint64_t>(std::countl_zero(static_cast<uint32_t>(v(lane))));
  }
}

TEST(Instructions, OfAWarp) {
  GpuArray<uint64_t> out(cuda::kWarpWords * 32);
  ASSERT_EQ(cuda::WarpWords(nullptr, out.get()), cudaSuccess);
  const std::vector<uint64_t> got = out.Values();
  ASSERT_TRUE(Ended());
  for (int word = 0; word < cuda::kWarpWords; ++word) {
    for (uint32_t lane = 0; lane < 32; ++lane) {
      EXPECT_EQ(got[word * 32 + lane], WantedWarpWord(word, lane)) << word << " of lane " << lane;
    }
  }
}

}  // namespace
}  // namespace tessera
