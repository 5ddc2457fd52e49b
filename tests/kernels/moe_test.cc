#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "tests/kernels/op_test.h"

namespace tessera::test {
namespace {

constexpr double kRouteTolerance = 1e-5;
constexpr double kFinalizeTolerance = 1e-5;

class MoeTest : public OpTest {};
TESSERA_OP_TEST_SUITE(MoeTest);

TEST_P(MoeTest, RoutesToTheLargestWithLowerIndexFirst) {
  ForSeeds(30, [&](Random& random) {
    const int64_t experts = random.OneOf({1, 4, 7, 16, 60, 128});
    const int64_t top_k = std::min<int64_t>(experts, random.OneOf({1, 2, 4, 8}));
    const int64_t tokens = random.OneOf({0, 1, 3, 19});
    const bool normalize = random.Chance(0.5);
    std::vector<float> logits = random.Normals(tokens * experts, 3.0F);
    if (random.Chance(0.5)) {
      for (float& logit : logits) logit = std::round(logit);  // Many ties.
    }
    const TestTensor logits_tensor(device(), DType::kF32, {tokens, experts}, logits,
                                   random.OneOf({0, 4}));
    const TestTensor ids(device(), DType::kI32, {tokens, top_k});
    const TestTensor weights(device(), DType::kF32, {tokens, top_k});
    ops().RouteTopK(
        {.logits = logits_tensor, .normalize = normalize, .ids = ids, .weights = weights});
    std::vector<int32_t> expected_ids;
    std::vector<double> expected_weights;
    for (int64_t t = 0; t < tokens; ++t) {
      const float* row = logits.data() + t * experts;
      std::vector<int32_t> order(experts);
      std::iota(order.begin(), order.end(), 0);
      std::stable_sort(order.begin(), order.end(),
                       [&](int32_t a, int32_t b) { return row[a] > row[b]; });
      double all = 0;
      double chosen = 0;
      for (int64_t e = 0; e < experts; ++e) {
        all += std::exp(static_cast<double>(row[e]));
        if (e < top_k) chosen += std::exp(static_cast<double>(row[order[e]]));
      }
      for (int64_t j = 0; j < top_k; ++j) {
        expected_ids.push_back(order[j]);
        expected_weights.push_back(std::exp(static_cast<double>(row[order[j]])) /
                                   (normalize ? chosen : all));
      }
    }
    EXPECT_EQ(ids.Ints(), expected_ids);
    EXPECT_LE(WorstError(weights.Floats(), expected_weights), kRouteTolerance);
  });
}

// Rows without logits and rows at or beyond the batch's tokens choose nothing, and what their
// logits hold does not matter.
TEST_P(MoeTest, PaddingChoosesNoExpert) {
  ForSeeds(30, [&](Random& random) {
    const int64_t experts = random.OneOf({4, 60});
    const int64_t top_k = random.OneOf({1, 4});
    const int64_t rows = random.OneOf({1, 3, 19});
    const int64_t behind = random.OneOf({0, 1, 5});
    const auto first = static_cast<int32_t>(random.OneOf({0, 2, 30}));
    const auto used = static_cast<int32_t>(random.Int(0, first + rows + 2));
    const bool counted = random.Chance(0.7);
    const int64_t tokens = counted ? std::clamp<int64_t>(used - first, 0, rows) : rows;
    const std::vector<float> logits = random.Normals(rows * experts, 3.0F);
    const auto route = [&](const std::vector<float>& values) {
      const TestTensor logits_tensor(device(), DType::kF32, {rows, experts}, values);
      const TestTensor num_rows = TestTensor::Ints(device(), {1}, {used});
      const TestTensor ids(device(), DType::kI32, {rows + behind, top_k});
      const TestTensor weights(device(), DType::kF32, {rows + behind, top_k});
      RouteTopKArgs args{.logits = logits_tensor,
                         .first_row = counted ? first : 0,
                         .ids = ids,
                         .weights = weights};
      if (counted) args.num_rows = num_rows;
      ops().RouteTopK(args);
      return std::make_pair(ids.Ints(), weights.Floats());
    };
    const auto [ids, weights] = route(logits);
    for (int64_t i = 0; i < (rows + behind) * top_k; ++i) {
      EXPECT_EQ(ids[i] >= 0, i < tokens * top_k) << i;
      EXPECT_EQ(weights[i] > 0, i < tokens * top_k) << i;
    }
    std::vector<float> poisoned = logits;
    std::fill(poisoned.begin() + tokens * experts, poisoned.end(), std::nanf(""));
    EXPECT_EQ(route(poisoned), std::make_pair(ids, weights));
  });
}

TEST_P(MoeTest, PermutesStablyAndOnlyItsOwnExperts) {
  ForSeeds(30, [&](Random& random) {
    const int64_t tokens = random.OneOf({0, 1, 2, 30});
    const int64_t top_k = random.OneOf({1, 2, 8});
    const int64_t experts = random.OneOf({8, 16});
    const auto held = static_cast<int32_t>(random.OneOf({1, 4, 8}));
    const auto begin = static_cast<int32_t>(random.Int(0, experts - held));
    std::vector<int32_t> ids;
    std::vector<int32_t> all(experts);
    std::iota(all.begin(), all.end(), 0);
    for (int64_t t = 0; t < tokens; ++t) {
      std::shuffle(all.begin(), all.end(), random.engine());
      for (int64_t j = 0; j < top_k; ++j) ids.push_back(random.Chance(0.1) ? -1 : all[j]);
    }
    const TestTensor ids_tensor = TestTensor::Ints(device(), {tokens, top_k}, ids);
    const TestTensor offsets(device(), DType::kI32, {held + 1});
    const TestTensor row_token(device(), DType::kI32, {tokens * std::min<int64_t>(top_k, held)});
    const TestTensor positions(device(), DType::kI32, {tokens, top_k});
    ops().MoePermute({.ids = ids_tensor,
                      .expert_begin = begin,
                      .num_experts = held,
                      .offsets = offsets,
                      .row_token = row_token,
                      .positions = positions});
    std::vector<int32_t> expected_offsets{0};
    std::vector<int32_t> expected_tokens;
    std::vector<int32_t> expected_positions(ids.size(), -1);
    for (int32_t e = begin; e < begin + held; ++e) {
      for (size_t pair = 0; pair < ids.size(); ++pair) {
        if (ids[pair] != e) continue;
        expected_positions[pair] = static_cast<int32_t>(expected_tokens.size());
        expected_tokens.push_back(static_cast<int32_t>(pair / top_k));
      }
      expected_offsets.push_back(static_cast<int32_t>(expected_tokens.size()));
    }
    EXPECT_EQ(offsets.Ints(), expected_offsets);
    EXPECT_EQ(positions.Ints(), expected_positions);
    std::vector<int32_t> actual_tokens = row_token.Ints();
    actual_tokens.resize(expected_tokens.size());
    EXPECT_EQ(actual_tokens, expected_tokens);
  });
}

// Ids may come from peers: more rows than experts can have are refused, not written.
TEST_P(MoeTest, PermuteRefusesAnExpertChosenTwice) {
  const TestTensor ids = TestTensor::Ints(device(), {2, 2}, {3, 3, 3, -1});
  const TestTensor offsets(device(), DType::kI32, {2});
  const TestTensor row_token(device(), DType::kI32, {2});
  const TestTensor positions(device(), DType::kI32, {2, 2});
  ops().MoePermute({.ids = ids,
                    .expert_begin = 3,
                    .num_experts = 1,
                    .offsets = offsets,
                    .row_token = row_token,
                    .positions = positions});
  EXPECT_EQ(device().Synchronize().code(), absl::StatusCode::kInternal);
}

TEST_P(MoeTest, FinalizeSumsTheRowsThatAreHere) {
  ForSeeds(30, [&](Random& random) {
    const int64_t tokens = random.OneOf({0, 1, 5, 20});
    const int64_t top_k = random.OneOf({1, 2, 8});
    const int64_t hidden = random.OneOf({1, 8, 33, 128});
    const int64_t rows = tokens * top_k + 1;
    std::vector<int32_t> positions(tokens * top_k);
    std::iota(positions.begin(), positions.end(), 0);
    std::shuffle(positions.begin(), positions.end(), random.engine());
    std::vector<float> y = Activations(random, rows * hidden);
    for (int32_t& position : positions) {
      if (!random.Chance(0.3)) continue;
      for (int64_t i = 0; i < hidden; ++i) y[position * hidden + i] = std::nanf("");
      position = -1;
    }
    const std::vector<float> weights = random.Normals(tokens * top_k);
    const TestTensor y_tensor(device(), act(), {rows, hidden}, y);
    const TestTensor positions_tensor = TestTensor::Ints(device(), {tokens, top_k}, positions);
    const TestTensor weights_tensor(device(), DType::kF32, {tokens, top_k}, weights);
    const TestTensor out(device(), act(), {tokens, hidden}, random.OneOf({0, 8}));
    ops().MoeFinalize(
        {.y = y_tensor, .positions = positions_tensor, .weights = weights_tensor, .out = out});
    std::vector<double> expected(tokens * hidden);
    for (int64_t pair = 0; pair < tokens * top_k; ++pair) {
      if (positions[pair] < 0) continue;
      for (int64_t i = 0; i < hidden; ++i) {
        expected[pair / top_k * hidden + i] +=
            static_cast<double>(weights[pair]) * y[positions[pair] * hidden + i];
      }
    }
    EXPECT_LE(WorstError(out.Floats(), expected), kFinalizeTolerance + RoundingError(act()));
  });
}

}  // namespace
}  // namespace tessera::test
