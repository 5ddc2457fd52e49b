// The launcher of kernels/cuda/kernels/gemm_sm90.h by itself: odd shapes, strides and alignments
// under several schedules, and the same bits from every way of cutting a product.
#include <gtest/gtest.h>

#include <cmath>
#include <utility>
#include <vector>

#include "kernels/cuda/emulation/emulator.h"
#include "kernels/cuda/tensor_map.h"
#include "tests/kernels/cuda/gemm_sm90_case.h"

namespace tessera::test {
namespace {

namespace emulation = simt::emulation;

class CudaGemmSm90Test : public testing::Test {
 protected:
  ~CudaGemmSm90Test() override { emulation::SetOptions(emulation::OptionsFromEnvironment()); }

  // Another schedule for each case; the case's own seed repeats it.
  static void Schedule(Random& random) {
    emulation::Options options = emulation::OptionsFromEnvironment();
    options.seed = static_cast<uint64_t>(random.Int(1, 1'000'000));
    emulation::SetOptions(options);
  }
};

Sm90Case RandomCase(Random& random) {
  Sm90Case c;
  c.out_bf16 = random.Chance(0.5);
  c.n = static_cast<int>(random.OneOf({1, 7, 16, 33, 130, 200}));
  c.k = static_cast<int>(random.OneOf({1, 8, 31, 64, 100, 300}));
  // Half of the cases have rows of x where TMA can load them.
  c.x_gap = random.Chance(0.5) ? (8 - c.k % 8) % 8 : static_cast<int>(random.OneOf({0, 3, 8}));
  c.x_offset = static_cast<int>(random.OneOf({0, 0, 0, 1, 4}));
  c.out_gap = static_cast<int>(random.OneOf({0, 1, 8}));
  c.workspace = random.Chance(0.7);
  c.multiprocessors = static_cast<int>(random.OneOf({1, 3, 16}));
  return c;
}

void ExpectFormula(const Sm90Case& c, const Sm90Inputs& inputs, const std::vector<float>& actual) {
  const std::vector<double> expected = Formula(c, inputs);
  ASSERT_EQ(actual.size(), expected.size());
  std::vector<float> stored;
  std::vector<double> stored_expected;
  for (size_t i = 0; i < actual.size(); ++i) {
    ASSERT_EQ(std::isnan(actual[i]), std::isnan(expected[i]))
        << "row " << i / c.n << ", column " << i % c.n;
    if (std::isnan(expected[i])) continue;
    stored.push_back(actual[i]);
    stored_expected.push_back(expected[i]);
  }
  EXPECT_LE(WorstError(stored, stored_expected),
            2e-5 + RoundingError(c.out_bf16 ? DType::kBF16 : DType::kF32));
}

TEST_F(CudaGemmSm90Test, MatchesTheFormula) {
  ForSeeds(24, [](Random& random) {
    Schedule(random);
    Sm90Case c = RandomCase(random);
    c.rows = static_cast<int>(random.OneOf({0, 1, 7, 9, 17, 33, 64, 65, 130}));
    c.bias = random.Chance(0.5);
    c.indexed = random.Chance(0.2);
    const Sm90Inputs inputs(random, c);
    SCOPED_TRACE(c.Describe());
    ExpectFormula(c, inputs, Multiply(c, inputs, cuda::LaunchGemmSm90));
  });
}

TEST_F(CudaGemmSm90Test, GroupsMatchTheFormulaAndLeaveTheRest) {
  ForSeeds(16, [](Random& random) {
    Schedule(random);
    Sm90Case c = RandomCase(random);
    const int64_t groups = random.OneOf({1, 3, 33, 40});
    for (int64_t g = 0; g < groups; ++g) {
      const int64_t rows = random.Chance(groups > 3 ? 0.8 : 0.3) ? 0 : random.OneOf({1, 2, 9, 70});
      c.group_rows.push_back(static_cast<int>(rows));
    }
    c.indexed = random.Chance(0.7);
    c.rows_behind = static_cast<int>(random.Int(0, 5));
    if (random.Chance(0.3)) c.empty_slot = static_cast<int>(random.Int(0, groups - 1));
    const Sm90Inputs inputs(random, c);
    SCOPED_TRACE(c.Describe());
    ExpectFormula(c, inputs, Multiply(c, inputs, cuda::LaunchGemmSm90));
  });
}

// `count` rows of `inputs` from `first` on.
Sm90Inputs Part(const Sm90Inputs& inputs, int first, int count) {
  Sm90Inputs part = inputs;
  part.x.assign(inputs.x.begin() + first, inputs.x.begin() + first + count);
  part.index.resize(count);
  return part;
}

struct Way {
  int rows;
  bool grouped;
  bool workspace;
  int multiprocessors;
  int x_gap;  // 0: TMA; 3: copied
};
// Every tile, both orientations, with and without split K, loaded and copied.
constexpr Way kWays[] = {
    {1, false, true, 16, 0},  {1, false, false, 16, 0}, {1, true, true, 16, 3},
    {9, false, true, 2, 0},   {16, true, true, 16, 0},  {20, true, false, 2, 3},
    {33, false, true, 16, 3}, {64, false, true, 16, 0}, {64, true, true, 16, 0},
    {70, false, false, 1, 3}, {70, false, true, 16, 0}};

// A row alone, among others, as one of the 64 or of the 8 to 128 rows that wgmma multiplies, with K
// cut or in one pass: what holds here for the sums of the emulator, a GPU has to confirm for those
// of its tensor cores.
TEST_F(CudaGemmSm90Test, GivesTheSameBitsHoweverItIsCut) {
  ForSeeds(3, [](Random& random) {
    Sm90Case c;
    c.out_bf16 = false;
    c.n = static_cast<int>(random.OneOf({33, 130}));
    c.k = static_cast<int>(random.OneOf({520, 1096}));
    c.rows = 70;
    const Sm90Inputs inputs(random, c);
    SCOPED_TRACE(c.Describe());
    const std::vector<float> whole = Multiply(c, inputs, cuda::LaunchGemmSm90);
    const std::vector<float> older =
        Multiply(c, inputs,
                 [](cudaStream_t stream, const cuda::GemmProblem& problem,
                    const cuda::GemmSm90Maps&, int) { return cuda::LaunchGemm(stream, problem); });
    EXPECT_EQ(whole, older) << "mma.sync";
    for (const Way& way : kWays) {
      Schedule(random);
      Sm90Case part = c;
      part.workspace = way.workspace;
      part.multiprocessors = way.multiprocessors;
      part.x_gap = way.x_gap;
      part.rows = way.rows;
      if (way.grouped) part.group_rows = {way.rows};
      const auto first = static_cast<int>(random.Int(0, c.rows - way.rows));
      const std::vector<float> expected(
          whole.begin() + static_cast<ptrdiff_t>(first) * c.n,
          whole.begin() + static_cast<ptrdiff_t>(first + way.rows) * c.n);
      ASSERT_EQ(Multiply(part, Part(inputs, first, way.rows), cuda::LaunchGemmSm90), expected)
          << way.rows << " rows from " << first << ", grouped " << way.grouped;
    }
  });
}

// A prompt's rows in pairs of blocks that share the weights, whole and with the last row tile
// missing, with K cut and in one pass, several times per block; and by blocks by themselves.
TEST_F(CudaGemmSm90Test, PairsGiveTheSameBits) {
  ForSeeds(2, [](Random& random) {
    Sm90Case c{.out_bf16 = false, .k = static_cast<int>(random.OneOf({456, 520}))};
    c.n = static_cast<int>(random.OneOf({33, 130}));
    c.x_gap = (8 - c.k % 8) % 8;
    c.rows = static_cast<int>(random.Int(129, 300));
    const Sm90Inputs inputs(random, c);
    SCOPED_TRACE(c.Describe());
    Sm90Case alone = c;
    alone.multiprocessors = 1;
    const std::vector<float> expected = Multiply(alone, inputs, cuda::LaunchGemmSm90);
    ExpectFormula(c, inputs, expected);
    for (const int multiprocessors : {2, 16}) {
      Schedule(random);
      c.multiprocessors = multiprocessors;
      c.workspace = random.Chance(0.5);
      ASSERT_EQ(Multiply(c, inputs, cuda::LaunchGemmSm90), expected) << multiprocessors;
    }
  });
}

// TMA loads of a product of 128 columns and one step of K, and blocks of its launch.
using LoadsAndBlocks = std::pair<uint64_t, uint64_t>;
LoadsAndBlocks LoadsOf(int rows, int multiprocessors, bool groups = false) {
  const Sm90Case c{.n = 128,
                   .k = 64,
                   .rows = rows,
                   .group_rows = groups ? std::vector<int>{rows} : std::vector<int>{},
                   .multiprocessors = multiprocessors};
  Random random(1);
  const Sm90Inputs inputs(random, c);
  const emulation::Statistics before = emulation::Counters();
  Multiply(c, inputs, cuda::LaunchGemmSm90);
  const emulation::Statistics& after = emulation::Counters();
  return {after.tma - before.tma, after.blocks - before.blocks};
}

// Pairs load the weights once for two row tiles. They are for whole products, and only where a tile
// that the last pair lacks costs no turn.
TEST_F(CudaGemmSm90Test, PairsLoadWeightsOnce) {
  EXPECT_EQ(LoadsOf(128, 16), LoadsAndBlocks(2, 1));
  EXPECT_EQ(LoadsOf(256, 16), LoadsAndBlocks(3, 2));
  EXPECT_EQ(LoadsOf(256, 1), LoadsAndBlocks(4, 1));
  EXPECT_EQ(LoadsOf(257, 16), LoadsAndBlocks(6, 4));
  EXPECT_EQ(LoadsOf(257, 3), LoadsAndBlocks(6, 3)) << "one turn of three, not two of one pair";
  EXPECT_EQ(LoadsOf(256, 16, /*groups=*/true), LoadsAndBlocks(2, 2)) << "weights alone";
}

TEST_F(CudaGemmSm90Test, ChoosesTilesByRows) {
  const auto tile_rows = [](int rows, int groups) {
    const int32_t offset = 0;
    return cuda::Sm90TileRows(
        {.rows = rows, .offsets = groups > 0 ? &offset : nullptr, .num_groups = groups});
  };
  EXPECT_EQ(tile_rows(1, 0), 8);
  EXPECT_EQ(tile_rows(9, 0), 16);
  EXPECT_EQ(tile_rows(64, 0), 64);
  EXPECT_EQ(tile_rows(65, 0), 128);
  EXPECT_EQ(tile_rows(4 * 128, 128), 8);
  EXPECT_EQ(tile_rows(32 * 128, 128), 64);
  EXPECT_EQ(tile_rows(33 * 128, 128), 128);
}

TEST(TensorMapTest, RefusesWhatTmaCannotLoad) {
  alignas(16) char memory[16];
  const cuda::BoxedMatrix good{.data = memory, .rows = 1, .cols = 3, .stride = 8, .box_rows = 8};
  simt::TensorMap map;
  EXPECT_EQ(cuda::EncodeTensorMap(good, &map), cudaSuccess);
  const auto refused = [&](auto change) {
    cuda::BoxedMatrix bad = good;
    change(bad);
    return cuda::EncodeTensorMap(bad, &map) == cudaErrorInvalidValue;
  };
  EXPECT_TRUE(refused([&](auto& m) { m.data = memory + 2; }));
  EXPECT_TRUE(refused([](auto& m) { m.rows = 0; }));
  EXPECT_TRUE(refused([](auto& m) { m.stride = 9; }));
  EXPECT_TRUE(refused([](auto& m) { m.box_rows = 257; }));
}

}  // namespace
}  // namespace tessera::test
