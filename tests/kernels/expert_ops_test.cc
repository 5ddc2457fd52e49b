// The bookkeeping of expert parallelism on every backend, against the serial loops of the oracle:
// random worlds, every entry that an operation owns and none that it does not.
#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <vector>

#include "tests/kernels/op_test.h"
#include "tests/parallel/experts/dispatch_case.h"
#include "tests/parallel/experts/routing_oracle.h"

namespace tessera::test {
namespace {

// Poison of TestTensor, so that arrays compare as a whole: what the oracle leaves, a backend
// leaves.
constexpr int32_t kUntouched = -1;

using Ints = std::vector<int32_t>;

// A step of a whole group; every fourth is large enough for several threads and several blocks of
// tokens.
DispatchCase DrawStep(Random& random, DType dtype) {
  const auto seed = static_cast<uint32_t>(random.Int(1, 1 << 30));
  const auto ranks = static_cast<int>(random.OneOf({1, 2, 3, 8, 9}));
  return DrawCase(seed, ranks, dtype, random.Chance(0.25) ? 1500 : 24);
}

class ExpertOpsTest : public OpTest {
 protected:
  struct Placed {
    TestTensor offsets;
    TestTensor slots;
    PlacementTensors tensors;
  };
  Placed Upload(const Placement& placement) {
    const auto to_vector = [](absl::Span<const int32_t> values) {
      return Ints(values.begin(), values.end());
    };
    const Ints offsets = to_vector(placement.replica_offsets());
    const Ints slots = to_vector(placement.replica_slots());
    Placed placed{TestTensor::Ints(device(), {static_cast<int64_t>(offsets.size())}, offsets),
                  TestTensor::Ints(device(), {static_cast<int64_t>(slots.size())}, slots),
                  {}};
    placed.tensors = {.replica_offsets = placed.offsets,
                      .replica_slots = placed.slots,
                      .num_ranks = placement.shape().num_ranks,
                      .slots_per_rank = placement.shape().slots_per_rank};
    return placed;
  }
  absl::StatusCode Failure() { return device().Synchronize().code(); }
};
TESSERA_OP_TEST_SUITE(ExpertOpsTest);

DispatchShape ShapeOf(const DispatchCase& drawn) {
  return {.num_ranks = drawn.shape.num_ranks,
          .slots_per_rank = drawn.shape.slots_per_rank,
          .top_k = drawn.top_k,
          .capacity = drawn.capacity};
}

// What the oracle plans for one rank.
struct OraclePlan {
  Ints send_counts, pair_counts, send_tokens, headers, token_rows, pair_rows;
  bool good = false;

  OraclePlan(const DispatchCase& drawn, int rank, bool clear_unused) {
    const DispatchShape shape = ShapeOf(drawn);
    const auto placement = Placement::Create(drawn.shape, drawn.slot_experts);
    send_counts.resize(shape.num_ranks);
    pair_counts.resize(shape.num_ranks);
    send_tokens.assign(shape.num_rows(), kUntouched);
    headers.assign(shape.num_rows() * HeaderWords(shape.row_slots()), kUntouched);
    token_rows.assign(drawn.tokens[rank] * shape.rows_per_token(), kUntouched);
    pair_rows.assign(drawn.tokens[rank] * drawn.top_k, kUntouched);
    const oracle::PlanInput in{.ids = drawn.ids[rank].data(),
                               .weights = drawn.weights[rank].data(),
                               .num_tokens = drawn.tokens[rank],
                               .k = drawn.top_k,
                               .rank = rank,
                               .placement = placement->view(),
                               .capacity = drawn.capacity,
                               .row_slots = shape.row_slots()};
    const oracle::PlanOutput out{.send_counts = send_counts.data(),
                                 .pair_counts = pair_counts.data(),
                                 .send_tokens = send_tokens.data(),
                                 .headers = headers.data(),
                                 .token_rows = token_rows.data(),
                                 .pair_rows = pair_rows.data()};
    good = oracle::PlanDispatch(in, out);
    if (clear_unused) oracle::ClearUnusedHeaders(in, out);
  }
};

// The tensors of a plan on the device.
struct DevicePlan {
  DevicePlan(Device& device, const DispatchCase& drawn, int rank)
      : shape(ShapeOf(drawn)),
        ids(TestTensor::Ints(device, {drawn.tokens[rank], drawn.top_k}, drawn.ids[rank])),
        weights(device, DType::kF32, {drawn.tokens[rank], drawn.top_k}, drawn.weights[rank]),
        send_counts(device, DType::kI32, {shape.num_ranks}),
        pair_counts(device, DType::kI32, {shape.num_ranks}),
        send_tokens(device, DType::kI32, {shape.num_rows()}),
        headers(device, DType::kI32, {shape.num_rows(), HeaderWords(shape.row_slots())}),
        token_rows(device, DType::kI32, {drawn.tokens[rank], shape.rows_per_token()}),
        pair_rows(device, DType::kI32, {drawn.tokens[rank], drawn.top_k}) {}

  PlanDispatchArgs Args(const PlacementTensors& placement, int rank, bool clear_unused) const {
    return {.shape = shape,
            .placement = placement,
            .rank = rank,
            .clear_unused = clear_unused,
            .ids = ids,
            .weights = weights,
            .send_counts = send_counts,
            .pair_counts = pair_counts,
            .send_tokens = send_tokens,
            .headers = headers,
            .token_rows = token_rows,
            .pair_rows = pair_rows};
  }

  DispatchShape shape;
  TestTensor ids, weights, send_counts, pair_counts, send_tokens, headers, token_rows, pair_rows;
};

TEST_P(ExpertOpsTest, PlansAsTheOracle) {
  ForSeeds(40, [&](Random& random) {
    const DispatchCase drawn = DrawStep(random, DType::kF32);
    const Placed placement = Upload(*Placement::Create(drawn.shape, drawn.slot_experts));
    const auto rank = static_cast<int>(random.Int(0, drawn.shape.num_ranks - 1));
    const bool clear_unused = random.Chance(0.5);
    const DevicePlan plan(device(), drawn, rank);
    ops().PlanDispatch(plan.Args(placement.tensors, rank, clear_unused));
    const OraclePlan expected(drawn, rank, clear_unused);
    ASSERT_TRUE(expected.good);
    EXPECT_EQ(plan.send_counts.Ints(), expected.send_counts);
    EXPECT_EQ(plan.pair_counts.Ints(), expected.pair_counts);
    EXPECT_EQ(plan.send_tokens.Ints(), expected.send_tokens);
    EXPECT_EQ(plan.headers.Ints(), expected.headers);
    EXPECT_EQ(plan.token_rows.Ints(), expected.token_rows);
    EXPECT_EQ(plan.pair_rows.Ints(), expected.pair_rows);
    plan.ids.ExpectUnchanged();
  });
}

// The fault may lie in any block of tokens.
TEST_P(ExpertOpsTest, RefusesUnknownAndRepeatedExperts) {
  for (const Ints& bad : {Ints{0, 2}, Ints{1, 1}, Ints{1 << 30, 0}}) {
    for (const int32_t place : {0, 700}) {
      SetUp();  // failures are sticky
      DispatchCase drawn{.shape = {.num_experts = 2, .num_ranks = 2, .slots_per_rank = 1},
                         .top_k = 2,
                         .capacity = place + 1,
                         .slot_experts = {0, 1},
                         .tokens = {place + 1, 0},
                         .ids = {{}, {}},
                         .weights = {std::vector<float>(2 * (place + 1), 1.0F), {}}};
      for (int32_t t = 0; t < place; ++t) drawn.ids[0].insert(drawn.ids[0].end(), {1, 0});
      drawn.ids[0].insert(drawn.ids[0].end(), bad.begin(), bad.end());
      EXPECT_FALSE(OraclePlan(drawn, 0, false).good);
      const Placed placement = Upload(*Placement::Create(drawn.shape, drawn.slot_experts));
      const DevicePlan plan(device(), drawn, 0);
      ops().PlanDispatch(plan.Args(placement.tensors, 0, false));
      EXPECT_EQ(Failure(), absl::StatusCode::kInternal) << bad[0] << " at " << place;
    }
  }
}

TEST_P(ExpertOpsTest, PacksTheRowsOfThePlan) {
  ForSeeds(25, [&](Random& random) {
    const DType dtype = random.Chance(0.5) ? DType::kF32 : DType::kBF16;
    const DispatchCase drawn = DrawStep(random, dtype);
    const Placed placement = Upload(*Placement::Create(drawn.shape, drawn.slot_experts));
    const DevicePlan plan(device(), drawn, 0);
    const int64_t rows = plan.shape.num_rows();
    const TestTensor x(device(), dtype, {drawn.tokens[0], drawn.hidden}, drawn.x[0],
                       random.OneOf({0, 6}));
    const TestTensor chunks(device(), dtype, {rows, drawn.hidden});
    ops().PlanDispatch(plan.Args(placement.tensors, 0, false));
    ops().PackRows({.shape = plan.shape,
                    .x = x,
                    .send_counts = plan.send_counts,
                    .send_tokens = plan.send_tokens,
                    .chunks = chunks});
    const OraclePlan expected(drawn, 0, false);
    const std::vector<float> values = chunks.Floats();
    for (int64_t row = 0; row < rows; ++row) {
      const bool used = row % drawn.capacity < expected.send_counts[row / drawn.capacity];
      for (int64_t i = 0; i < drawn.hidden; ++i) {
        const float value = values[row * drawn.hidden + i];
        if (!used) {
          ASSERT_TRUE(std::isnan(value)) << "row " << row << " was written";
        } else {
          ASSERT_EQ(value, drawn.x[0][expected.send_tokens[row] * drawn.hidden + i]) << row;
        }
      }
    }
  });
}

// The rows that one rank receives, as the oracle sorts them.
struct OracleSort {
  Ints headers, recv_counts, pair_counts, offsets, row_index, sorted_rows, result_rows;

  OracleSort(const DispatchCase& drawn, int rank, bool padded) {
    const DispatchShape shape = ShapeOf(drawn);
    const int64_t chunk = shape.capacity * HeaderWords(shape.row_slots());
    for (int source = 0; source < shape.num_ranks; ++source) {
      const OraclePlan plan(drawn, source, padded);
      headers.insert(headers.end(), plan.headers.begin() + rank * chunk,
                     plan.headers.begin() + (rank + 1) * chunk);
      recv_counts.push_back(plan.send_counts[rank]);
    }
    pair_counts.resize(shape.num_ranks);
    offsets.resize(shape.slots_per_rank + 1);
    row_index.assign(shape.num_results(), kUntouched);
    sorted_rows.assign(shape.num_results(), kUntouched);
    result_rows.assign(shape.num_rows(), kUntouched);
    EXPECT_TRUE(oracle::SortRows(shape, padded,
                                 {.headers = headers.data(),
                                  .recv_counts = recv_counts.data(),
                                  .pair_counts = pair_counts.data(),
                                  .offsets = offsets.data(),
                                  .row_index = row_index.data(),
                                  .sorted_rows = sorted_rows.data(),
                                  .result_rows = result_rows.data()}));
  }
};

// The tensors of a sort on the device.
struct DeviceSort {
  DeviceSort(Device& device, const DispatchShape& of, const Ints& sent, const Ints& counts)
      : shape(of),
        headers(TestTensor::Ints(device, {of.num_rows(), HeaderWords(of.row_slots())}, sent)),
        recv_counts(counts.empty() ? TestTensor(device, DType::kI32, {of.num_ranks})
                                   : TestTensor::Ints(device, {of.num_ranks}, counts)),
        pair_counts(device, DType::kI32, {of.num_ranks}),
        offsets(device, DType::kI32, {of.slots_per_rank + 1}),
        row_index(device, DType::kI32, {of.num_results()}),
        sorted_rows(device, DType::kI32, {of.num_rows(), of.row_slots()}),
        result_rows(device, DType::kI32, {of.num_rows()}) {}

  SortRowsArgs Args(bool padded) const {
    return {.shape = shape,
            .padded = padded,
            .headers = headers,
            .recv_counts = recv_counts,
            .pair_counts = pair_counts,
            .offsets = offsets,
            .row_index = row_index,
            .sorted_rows = sorted_rows,
            .result_rows = result_rows};
  }

  DispatchShape shape;
  TestTensor headers, recv_counts, pair_counts, offsets, row_index, sorted_rows, result_rows;
};

TEST_P(ExpertOpsTest, SortsAsTheOracle) {
  ForSeeds(30, [&](Random& random) {
    const DispatchCase drawn = DrawStep(random, DType::kF32);
    const auto rank = static_cast<int>(random.Int(0, drawn.shape.num_ranks - 1));
    const bool padded = random.Chance(0.5);
    const OracleSort expected(drawn, rank, padded);
    const DeviceSort sort(device(), ShapeOf(drawn), expected.headers,
                          padded ? Ints() : expected.recv_counts);
    ops().SortRows(sort.Args(padded));
    EXPECT_EQ(sort.recv_counts.Ints(), expected.recv_counts);
    EXPECT_EQ(sort.pair_counts.Ints(), expected.pair_counts);
    EXPECT_EQ(sort.offsets.Ints(), expected.offsets);
    EXPECT_EQ(sort.row_index.Ints(), expected.row_index);
    EXPECT_EQ(sort.sorted_rows.Ints(), expected.sorted_rows);
    EXPECT_EQ(sort.result_rows.Ints(), expected.result_rows);
    sort.headers.ExpectUnchanged();
  });
}

class BadHeaderTest : public ExpertOpsTest {
 protected:
  absl::StatusCode Sort(const Ints& headers, const Ints& counts) {
    const DeviceSort sort(device(),
                          {.num_ranks = 2, .slots_per_rank = 2, .top_k = 2, .capacity = 1}, headers,
                          counts);
    ops().SortRows(sort.Args(false));
    return Failure();
  }
};
TESSERA_OP_TEST_SUITE(BadHeaderTest);

const Ints kGoodHeader = {1, 0, 1, 0, 0, 0};

Ints After(Ints headers, const Ints& more) {
  headers.insert(headers.end(), more.begin(), more.end());
  return headers;
}

TEST_P(BadHeaderTest, GoodOnes) {
  EXPECT_EQ(Sort(After(kGoodHeader, kGoodHeader), {1, 1}), absl::StatusCode::kOk);
}
TEST_P(BadHeaderTest, TooManySlots) {
  EXPECT_EQ(Sort(After(kGoodHeader, {3, 0, 0, 1, 0, 0}), {1, 1}), absl::StatusCode::kInternal);
}
TEST_P(BadHeaderTest, NegativeNumberOfSlots) {
  EXPECT_EQ(Sort(After(kGoodHeader, {-1, 0, 0, 0, 0, 0}), {1, 1}), absl::StatusCode::kInternal);
}
TEST_P(BadHeaderTest, NoSlots) {
  EXPECT_EQ(Sort(After(kGoodHeader, {0, 0, 0, 0, 0, 0}), {1, 1}), absl::StatusCode::kInternal);
}
TEST_P(BadHeaderTest, SlotBeyondTheLast) {
  EXPECT_EQ(Sort(After(kGoodHeader, {1, 0, 2, 0, 0, 0}), {1, 1}), absl::StatusCode::kInternal);
}
TEST_P(BadHeaderTest, NegativeSlot) {
  EXPECT_EQ(Sort(After(kGoodHeader, {1, 0, -1, 0, 0, 0}), {1, 1}), absl::StatusCode::kInternal);
}
TEST_P(BadHeaderTest, MoreRowsThanFit) {
  EXPECT_EQ(Sort(After(kGoodHeader, kGoodHeader), {1, 2}), absl::StatusCode::kInternal);
}
TEST_P(BadHeaderTest, NegativeNumberOfRows) {
  EXPECT_EQ(Sort(After(kGoodHeader, kGoodHeader), {1, -1}), absl::StatusCode::kInternal);
}

// Impossible data end a device, but not at once: what is behind them in the queue finds nothing to
// do, instead of indices that lead anywhere.
TEST_P(ExpertOpsTest, WhatFollowsImpossibleDataDoesNoHarm) {
  const DispatchShape shape{.num_ranks = 2, .slots_per_rank = 2, .top_k = 2, .capacity = 40};
  Ints headers(shape.num_rows() * HeaderWords(shape.row_slots()), 1 << 30);
  for (int64_t row = 0; row < 39; ++row) {
    std::copy_n(Ints{1, 0, 1, 0, 0, 0}.begin(), 6, headers.begin() + row * 6);
  }
  for (const Ints& counts : {Ints{40, 0}, Ints{39, 1}, Ints{39, -5}, Ints{1 << 30, 0}}) {
    const auto message = [&](bool go_on) {
      SetUp();  // failures are sticky
      const DeviceSort sort(device(), shape, headers, counts);
      const TestTensor y(device(), DType::kF32, {shape.num_results(), 8});
      const TestTensor packed(device(), DType::kF32, {shape.num_results(), 8});
      const TestTensor summed(device(), DType::kF32, {shape.num_rows(), 8});
      ops().SortRows(sort.Args(false));
      if (go_on) {
        ops().PackResults({.shape = shape,
                           .headers = sort.headers,
                           .recv_counts = sort.recv_counts,
                           .sorted_rows = sort.sorted_rows,
                           .result_rows = sort.result_rows,
                           .y = y,
                           .chunks = packed});
        ops().SumResults({.shape = shape,
                          .headers = sort.headers,
                          .recv_counts = sort.recv_counts,
                          .sorted_rows = sort.sorted_rows,
                          .y = y,
                          .chunks = summed});
      }
      EXPECT_EQ(Failure(), absl::StatusCode::kInternal);
      return std::string(device().Synchronize().message());
    };
    EXPECT_EQ(message(true), message(false));
  }
}

TEST_P(ExpertOpsTest, NothingIsSentForImpossibleChoices) {
  for (const int32_t bad : {2, 1 << 30}) {
    const auto message = [&](bool go_on) {
      SetUp();  // failures are sticky
      DispatchCase drawn{.shape = {.num_experts = 2, .num_ranks = 2, .slots_per_rank = 1},
                         .top_k = 2,
                         .capacity = 40,
                         .slot_experts = {0, 1},
                         .tokens = {40, 0},
                         .ids = {Ints(80, 0), {}},
                         .weights = {std::vector<float>(80, 1.0F), {}}};
      drawn.ids[0][33] = bad;
      const Placed placement = Upload(*Placement::Create(drawn.shape, drawn.slot_experts));
      const DevicePlan plan(device(), drawn, 0);
      const TestTensor x(device(), DType::kF32, {40, 8}, std::vector<float>(320));
      const TestTensor chunks(device(), DType::kF32, {plan.shape.num_rows(), 8});
      ops().PlanDispatch(plan.Args(placement.tensors, 0, true));
      if (go_on) {
        ops().PackRows({.shape = plan.shape,
                        .x = x,
                        .send_counts = plan.send_counts,
                        .send_tokens = plan.send_tokens,
                        .chunks = chunks});
        ops().AddRanks({.chunks = chunks, .token_rows = plan.token_rows, .out = x});
      }
      EXPECT_EQ(Failure(), absl::StatusCode::kInternal);
      return std::string(device().Synchronize().message());
    };
    EXPECT_EQ(message(true), message(false));
  }
}

TEST_P(ExpertOpsTest, BringsResultsBackInBothWays) {
  ForSeeds(25, [&](Random& random) {
    const DType dtype = random.Chance(0.5) ? DType::kF32 : DType::kBF16;
    const DispatchCase drawn = DrawStep(random, dtype);
    const DispatchShape shape = ShapeOf(drawn);
    const OracleSort sorted(drawn, 0, false);
    const DeviceSort sort(device(), shape, sorted.headers, sorted.recv_counts);
    ops().SortRows(sort.Args(false));
    const int64_t results = shape.num_results();
    std::vector<float> y(results * drawn.hidden, std::nanf(""));
    for (int64_t i = 0; i < sorted.offsets.back() * drawn.hidden; ++i) {
      y[i] = tessera::RoundTo(dtype, random.Normal());
    }
    const TestTensor y_tensor(device(), dtype, {results, drawn.hidden}, y, random.OneOf({0, 2}));
    const TestTensor packed(device(), dtype, {results, drawn.hidden});
    const TestTensor summed(device(), dtype, {shape.num_rows(), drawn.hidden});
    ops().PackResults({.shape = shape,
                       .headers = sort.headers,
                       .recv_counts = sort.recv_counts,
                       .sorted_rows = sort.sorted_rows,
                       .result_rows = sort.result_rows,
                       .y = y_tensor,
                       .chunks = packed});
    ops().SumResults({.shape = shape,
                      .headers = sort.headers,
                      .recv_counts = sort.recv_counts,
                      .sorted_rows = sort.sorted_rows,
                      .y = y_tensor,
                      .chunks = summed});
    std::vector<float> expected_packed(y.size(), std::nanf(""));
    std::vector<float> expected_summed(shape.num_rows() * drawn.hidden, std::nanf(""));
    const int32_t m = shape.row_slots();
    for (int64_t row = 0; row < shape.num_rows(); ++row) {
      if (row % shape.capacity >= sorted.recv_counts[row / shape.capacity]) continue;
      const int32_t* header = sorted.headers.data() + row * HeaderWords(m);
      for (int64_t i = 0; i < drawn.hidden; ++i) {
        float sum = 0;
        for (int32_t j = 0; j < header[RowHeader::kNumSlots]; ++j) {
          const float value = y[sorted.sorted_rows[row * m + j] * drawn.hidden + i];
          expected_packed[(sorted.result_rows[row] + j) * drawn.hidden + i] = value;
          sum += HeaderWeight(header, m, j) * value;
        }
        expected_summed[row * drawn.hidden + i] = tessera::RoundTo(dtype, sum);
      }
    }
    const auto bits = [](const std::vector<float>& values) {
      std::vector<uint32_t> words;
      for (float value : values)
        words.push_back(std::isnan(value) ? 0 : std::bit_cast<uint32_t>(value));
      return words;
    };
    EXPECT_EQ(bits(packed.Floats()), bits(expected_packed));
    EXPECT_EQ(bits(summed.Floats()), bits(expected_summed));
  });
}

TEST_P(ExpertOpsTest, AddsRanksInOrder) {
  ForSeeds(25, [&](Random& random) {
    const DType dtype = random.Chance(0.5) ? DType::kF32 : DType::kBF16;
    const DispatchCase drawn = DrawStep(random, dtype);
    const DispatchShape shape = ShapeOf(drawn);
    const OraclePlan plan(drawn, 0, false);
    const int64_t tokens = drawn.tokens[0];
    const int64_t n = shape.rows_per_token();
    std::vector<float> chunks(shape.num_rows() * drawn.hidden, std::nanf(""));
    for (int32_t row : plan.token_rows) {
      for (int64_t i = 0; row >= 0 && i < drawn.hidden; ++i) {
        chunks[row * drawn.hidden + i] = tessera::RoundTo(dtype, random.Normal());
      }
    }
    const TestTensor token_rows = TestTensor::Ints(device(), {tokens, n}, plan.token_rows);
    const TestTensor chunks_tensor(device(), dtype, {shape.num_rows(), drawn.hidden}, chunks);
    const TestTensor out(device(), dtype, {tokens, drawn.hidden}, random.OneOf({0, 4}));
    ops().AddRanks({.chunks = chunks_tensor, .token_rows = token_rows, .out = out});
    std::vector<float> expected;
    for (int64_t t = 0; t < tokens; ++t) {
      for (int64_t i = 0; i < drawn.hidden; ++i) {
        float sum = 0;
        for (int64_t j = 0; j < n; ++j) {
          const int32_t row = plan.token_rows[t * n + j];
          if (row >= 0) sum += chunks[row * drawn.hidden + i];
        }
        expected.push_back(tessera::RoundTo(dtype, sum));
      }
    }
    EXPECT_EQ(out.Floats(), expected);
  });
}

TEST_P(ExpertOpsTest, ReturnedCountsMustBeThoseSent) {
  const TestTensor sent = TestTensor::Ints(device(), {3}, {1, 0, 7});
  const TestTensor same = TestTensor::Ints(device(), {3}, {1, 0, 7});
  const TestTensor other = TestTensor::Ints(device(), {3}, {1, 0, 6});
  ops().CheckReturn({.sent = sent, .returned = same});
  EXPECT_EQ(Failure(), absl::StatusCode::kOk);
  ops().CheckReturn({.sent = sent, .returned = other});
  EXPECT_EQ(Failure(), absl::StatusCode::kInternal);
  ops().CheckReturn({.sent = sent, .returned = same});
  EXPECT_EQ(Failure(), absl::StatusCode::kInternal) << "failures are sticky";
}

TEST_P(ExpertOpsTest, CountsOnlyGrow) {
  ForSeeds(20, [&](Random& random) {
    const int64_t experts = random.OneOf({1, 4, 60});
    const int64_t tokens = random.OneOf({0, 1, 17, 900});
    const int64_t top_k = random.OneOf({1, 8});
    Ints ids(tokens * top_k);
    std::vector<int64_t> expected(experts);
    for (int64_t& count : expected) count = random.Int(0, int64_t{1} << 40);
    const TestTensor counts = TestTensor::Longs(device(), expected);
    for (int32_t& id : ids) {
      id = static_cast<int32_t>(random.Int(-2, experts));
      if (id >= 0 && id < experts) ++expected[id];
    }
    const auto rows = static_cast<int32_t>(random.Int(0, 1 << 30));
    const TestTensor ids_tensor = TestTensor::Ints(device(), {tokens, top_k}, ids);
    const TestTensor num_rows = TestTensor::Ints(device(), {1}, {rows});
    const TestTensor sum(device(), DType::kI64, {1});
    ops().CountChoices({.ids = ids_tensor, .counts = counts});
    ops().CountRows({.num_rows = num_rows, .total = counts.view().Rows(0, 1)});
    ops().SumCounts({.counts = counts, .sum = sum});
    expected[0] += rows;
    EXPECT_EQ(counts.Longs(), expected);
    EXPECT_EQ(sum.Longs()[0], std::accumulate(expected.begin(), expected.end(), int64_t{0}));
  });
}

TEST_P(ExpertOpsTest, LocalSlotsAreThoseOfSharedReplicas) {
  ForSeeds(30, [&](Random& random) {
    const DispatchCase drawn = DrawStep(random, DType::kF32);
    const auto placement = Placement::Create(drawn.shape, drawn.slot_experts);
    const Placed placed = Upload(*placement);
    const auto rank = static_cast<int32_t>(random.Int(0, drawn.shape.num_ranks - 1));
    const TestTensor ids = TestTensor::Ints(device(), {drawn.tokens[0], drawn.top_k}, drawn.ids[0]);
    const TestTensor slots(device(), DType::kI32, {drawn.tokens[0], drawn.top_k});
    ops().LocalSlots({.placement = placed.tensors, .rank = rank, .ids = ids, .slots = slots});
    Ints expected;
    for (size_t i = 0; i < drawn.ids[0].size(); ++i) {
      const int32_t id = drawn.ids[0][i];
      const int32_t slot =
          id < 0 ? -1 : SharedSlot(placement->view(), id, static_cast<int64_t>(i) / drawn.top_k);
      const bool here = slot >= 0 && placement->RankOf(slot) == rank;
      expected.push_back(here ? slot % drawn.shape.slots_per_rank : -1);
    }
    EXPECT_EQ(slots.Ints(), expected);
  });
}

TEST_P(ExpertOpsTest, LocalSlotsRefuseUnknownExperts) {
  const Placed placed =
      Upload(*Placement::Even({.num_experts = 2, .num_ranks = 1, .slots_per_rank = 2}));
  const TestTensor ids = TestTensor::Ints(device(), {1, 1}, {2});
  const TestTensor slots(device(), DType::kI32, {1, 1});
  ops().LocalSlots({.placement = placed.tensors, .rank = 0, .ids = ids, .slots = slots});
  EXPECT_EQ(Failure(), absl::StatusCode::kInternal);
}

}  // namespace
}  // namespace tessera::test
