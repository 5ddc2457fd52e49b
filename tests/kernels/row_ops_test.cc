// Embedding, norm, activation, gathering and concatenation.
#include <gtest/gtest.h>

#include <cmath>

#include "tests/kernels/op_test.h"

namespace tessera::test {
namespace {

constexpr double kNormTolerance = 1e-5;
constexpr double kActivationTolerance = 1e-5;

class RowOpsTest : public OpTest {};
TESSERA_OP_TEST_SUITE(RowOpsTest);

TEST_P(RowOpsTest, EmbedTakesRowsOfThisRankAndZerosElsewhere) {
  ForSeeds(20, [&](Random& random) {
    const int64_t rows = random.OneOf({1, 5, 40});
    const int64_t hidden = random.OneOf({1, 7, 8, 64, 130});
    const int64_t tokens = random.OneOf({0, 1, 3, 33});
    const auto begin = static_cast<int32_t>(random.OneOf({0, 100}));
    const std::vector<float> table = Weights(random, rows * hidden, 1.0F);
    std::vector<int32_t> ids(tokens);
    for (int32_t& id : ids) id = begin + static_cast<int32_t>(random.Int(-2, rows + 1));
    const std::unique_ptr<Weight> weight = Prepare(table, rows, hidden);
    // Some ids come from what an earlier operation drew.
    std::vector<int32_t> given = ids;
    std::vector<int32_t> source(tokens, -1);
    std::vector<int32_t> drawn(3, begin);
    for (int64_t t = 0; t < std::min<int64_t>(tokens, 3); ++t) {
      if (!random.Chance(0.5)) continue;
      source[t] = static_cast<int32_t>(2 - t);
      drawn[2 - t] = ids[t];
      given[t] = -1;
    }
    const TestTensor ids_tensor = TestTensor::Ints(device(), {tokens}, given);
    const TestTensor source_tensor = TestTensor::Ints(device(), {tokens}, source);
    const TestTensor drawn_tensor = TestTensor::Ints(device(), {3}, drawn);
    const TestTensor out(device(), act(), {tokens, hidden}, random.OneOf({0, 3}));
    ops().Embed({.ids = ids_tensor,
                 .source = source_tensor,
                 .drawn = drawn_tensor,
                 .table = weight.get(),
                 .vocab_begin = begin,
                 .out = out});
    std::vector<float> expected;
    for (int32_t id : ids) {
      const bool here = id >= begin && id < begin + rows;
      for (int64_t i = 0; i < hidden; ++i) {
        expected.push_back(here ? RoundTo(act(), table[(id - begin) * hidden + i]) : 0.0F);
      }
    }
    EXPECT_EQ(out.Floats(), expected);
  });
}

TEST_P(RowOpsTest, RmsNormMatchesTheFormula) {
  ForSeeds(30, [&](Random& random) {
    const int64_t tokens = random.OneOf({0, 1, 2, 5, 17});
    const int64_t hidden = random.OneOf({1, 3, 8, 31, 64, 100, 1024});
    const float eps = 1e-6F;
    const bool has_add = random.Chance(0.5);
    const float scale = random.Chance(0.2) ? 1e-3F : 4.0F;
    const std::vector<float> x = Activations(random, tokens * hidden, scale);
    const std::vector<float> add = Activations(random, tokens * hidden, scale);
    const std::vector<float> weight = random.Normals(hidden);
    const TestTensor x_tensor(device(), act(), {tokens, hidden}, x, random.OneOf({0, 4}));
    const TestTensor add_tensor(device(), act(), {tokens, hidden}, add, random.OneOf({0, 8}));
    const TestTensor weight_tensor(device(), DType::kF32, {hidden}, weight);
    const TestTensor out(device(), act(), {tokens, hidden}, random.OneOf({0, 2}));
    RmsNormArgs args{.x = x_tensor, .add = {}, .weight = weight_tensor, .eps = eps, .out = out};
    if (has_add) args.add = add_tensor;
    ops().RmsNorm(args);
    std::vector<double> sums;
    for (int64_t i = 0; has_add && i < tokens * hidden; ++i) {
      sums.push_back(x[i] + static_cast<double>(add[i]));
    }
    // The norm is that of the residual stream as it is stored.
    const std::vector<float> residual = x_tensor.Floats();
    std::vector<double> expected;
    for (int64_t t = 0; t < tokens; ++t) {
      double squares = 0;
      for (int64_t i = t * hidden; i < (t + 1) * hidden; ++i) {
        squares += static_cast<double>(residual[i]) * residual[i];
      }
      const double rms = std::sqrt(squares / static_cast<double>(hidden) + eps);
      for (int64_t i = 0; i < hidden; ++i) {
        expected.push_back(residual[t * hidden + i] / rms * weight[i]);
      }
    }
    EXPECT_LE(WorstError(out.Floats(), expected), kNormTolerance + RoundingError(act()));
    if (has_add) {
      EXPECT_LE(WorstError(residual, sums), kNormTolerance + RoundingError(act()));
    } else {
      x_tensor.ExpectUnchanged();
    }
    add_tensor.ExpectUnchanged();
  });
}

TEST_P(RowOpsTest, SiluAndMulMatchesTheFormulaAndStopsAtNumRows) {
  ForSeeds(30, [&](Random& random) {
    const int64_t rows = random.OneOf({0, 1, 2, 9, 30});
    const int64_t width = random.OneOf({1, 5, 8, 17, 96});
    const bool counted = random.Chance(0.5);
    const int64_t used = counted ? random.Int(0, rows) : rows;
    std::vector<float> x = Activations(random, rows * 2 * width, 4.0F);
    if (used > 0) x[0] = RoundTo(act(), -200.0F);  // exp(200) overflows a float.
    for (int64_t i = used * 2 * width; i < rows * 2 * width; ++i) x[i] = std::nanf("");
    const TestTensor x_tensor(device(), act(), {rows, 2 * width}, x, random.OneOf({0, 2}));
    const TestTensor count = TestTensor::Ints(device(), {1}, {static_cast<int32_t>(used)});
    const TestTensor out(device(), act(), {rows, width});
    SiluAndMulArgs args{.x = x_tensor, .num_rows = {}, .out = out};
    if (counted) args.num_rows = count;
    ops().SiluAndMul(args);
    std::vector<float> actual = out.Floats();
    for (int64_t i = used * width; i < rows * width; ++i) EXPECT_TRUE(std::isnan(actual[i]));
    actual.resize(used * width);
    std::vector<double> expected;
    for (int64_t m = 0; m < used; ++m) {
      for (int64_t i = 0; i < width; ++i) {
        const double gate = x[m * 2 * width + i];
        expected.push_back(gate / (1 + std::exp(-gate)) * x[(m * 2 + 1) * width + i]);
      }
    }
    EXPECT_LE(WorstError(actual, expected), kActivationTolerance + RoundingError(act()));
  });
}

TEST_P(RowOpsTest, GatherRowsCopies) {
  ForSeeds(15, [&](Random& random) {
    const int64_t tokens = random.Int(1, 20);
    const int64_t hidden = random.OneOf({1, 8, 33});
    const int64_t count = random.OneOf({0, 1, 4, 25});
    const std::vector<float> x = Activations(random, tokens * hidden);
    std::vector<int32_t> rows(count);
    for (int32_t& row : rows) row = static_cast<int32_t>(random.Int(-1, tokens - 1));
    const TestTensor x_tensor(device(), act(), {tokens, hidden}, x, random.OneOf({0, 3}));
    const TestTensor rows_tensor = TestTensor::Ints(device(), {count}, rows);
    const TestTensor out(device(), act(), {count, hidden}, random.OneOf({0, 5}));
    ops().GatherRows({.x = x_tensor, .rows = rows_tensor, .out = out});
    std::vector<float> expected;
    for (int32_t row : rows) {
      for (int64_t i = 0; i < hidden; ++i) {
        expected.push_back(row < 0 ? 0.0F : x[row * hidden + i]);
      }
    }
    EXPECT_EQ(out.Floats(), expected);
  });
}

TEST_P(RowOpsTest, CopyBlocksCopiesInEveryPartOfTheCache) {
  ForSeeds(15, [&](Random& random) {
    const int64_t parts = random.OneOf({1, 2, 6});
    const int64_t blocks = random.Int(2, 9);
    const int64_t size = random.OneOf({2, 8, 34, 96});
    const std::vector<float> before = Activations(random, parts * blocks * size);
    std::vector<int32_t> order(blocks);
    for (int32_t i = 0; i < blocks; ++i) order[i] = i;
    for (int64_t i = blocks - 1; i > 0; --i) std::swap(order[i], order[random.Int(0, i)]);
    // The first of the order are copied from, maybe several times, others to, the rest are neither.
    const int64_t sources = random.Int(1, blocks - 1);
    const int64_t pairs = random.Int(0, blocks - sources);
    std::vector<int32_t> from;
    std::vector<int32_t> to;
    for (int64_t i = 0; i < pairs; ++i) {
      from.push_back(order[random.Int(0, sources - 1)]);
      to.push_back(order[sources + i]);
    }
    const TestTensor cache(device(), act(), {parts, blocks, size}, before);
    const TestTensor from_tensor = TestTensor::Ints(device(), {pairs}, from);
    const TestTensor to_tensor = TestTensor::Ints(device(), {pairs}, to);
    ops().CopyBlocks({.cache = cache, .from = from_tensor, .to = to_tensor});
    std::vector<float> expected = before;
    for (int64_t part = 0; part < parts; ++part) {
      for (int64_t i = 0; i < pairs; ++i) {
        std::copy_n(before.begin() + (part * blocks + from[i]) * size, size,
                    expected.begin() + (part * blocks + to[i]) * size);
      }
    }
    EXPECT_EQ(cache.Floats(), expected);
  });
}

TEST_P(RowOpsTest, ConcatColumnsDropsThePaddingOfTheLastShard) {
  ForSeeds(15, [&](Random& random) {
    const int64_t shards = random.OneOf({1, 2, 3, 8});
    const int64_t rows = random.OneOf({0, 1, 4});
    const int64_t width = random.OneOf({1, 5, 16, 40});
    const int64_t vocab = shards * width - random.Int(0, width - 1);
    const std::vector<float> values = random.Normals(shards * rows * width);
    const TestTensor shards_tensor(device(), DType::kF32, {shards, rows, width}, values);
    const TestTensor out(device(), DType::kF32, {rows, vocab});
    ops().ConcatColumns({.shards = shards_tensor, .out = out});
    std::vector<float> expected;
    for (int64_t n = 0; n < rows; ++n) {
      for (int64_t v = 0; v < vocab; ++v) {
        expected.push_back(values[(v / width * rows + n) * width + v % width]);
      }
    }
    EXPECT_EQ(out.Floats(), expected);
  });
}

}  // namespace
}  // namespace tessera::test
