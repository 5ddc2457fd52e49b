// What the routing of rows must hold, shown on the oracle that every backend's operations equal
// (tests/kernels/expert_ops_test.cc).
#include "kernels/core/row_routing.h"

#include <set>
#include <utility>

#include "tests/parallel/experts/dispatch_case.h"
#include "tests/parallel/experts/routing_oracle.h"

namespace tessera {
namespace {

// A plan and the memory it lives in.
struct Plan {
  Plan(const DispatchCase& drawn, int rank)
      : placement(*Placement::Create(drawn.shape, drawn.slot_experts)),
        layout{.num_ranks = drawn.shape.num_ranks,
               .slots_per_rank = drawn.shape.slots_per_rank,
               .top_k = drawn.top_k,
               .capacity = drawn.capacity},
        send_counts(layout.num_ranks),
        pair_counts(layout.num_ranks),
        send_tokens(layout.num_rows(), -9),
        headers(layout.num_rows() * HeaderWords(layout.row_slots()), -9),
        token_rows(drawn.tokens[rank] * layout.rows_per_token(), -9),
        pair_rows(drawn.tokens[rank] * drawn.top_k, -9),
        in{.ids = drawn.ids[rank].data(),
           .weights = drawn.weights[rank].data(),
           .num_tokens = drawn.tokens[rank],
           .k = drawn.top_k,
           .rank = rank,
           .placement = placement.view(),
           .capacity = drawn.capacity,
           .row_slots = layout.row_slots()},
        out{.send_counts = send_counts.data(),
            .pair_counts = pair_counts.data(),
            .send_tokens = send_tokens.data(),
            .headers = headers.data(),
            .token_rows = token_rows.data(),
            .pair_rows = pair_rows.data()} {}

  const int32_t* Header(int64_t row) const {
    return headers.data() + row * HeaderWords(layout.row_slots());
  }

  Placement placement;
  DispatchShape layout;
  std::vector<int32_t> send_counts, pair_counts, send_tokens, headers, token_rows, pair_rows;
  oracle::PlanInput in;
  oracle::PlanOutput out;
};

template <typename Check>
void ForEachPlan(const Check& check) {
  for (uint32_t seed = 1; seed <= 150; ++seed) {
    const int ranks = static_cast<int>(seed % 9) + 1;
    const DispatchCase drawn = DrawCase(seed, ranks, DType::kF32);
    for (int rank = 0; rank < ranks; ++rank) {
      SCOPED_TRACE(testing::Message() << "seed " << seed << ", rank " << rank);
      Plan plan(drawn, rank);
      ASSERT_TRUE(oracle::PlanDispatch(plan.in, plan.out));
      check(drawn, rank, plan);
    }
  }
}

TEST(PlannerTest, EveryChoiceIsPlannedOnceOnARankThatHoldsIt) {
  ForEachPlan([](const DispatchCase& drawn, int rank, const Plan& plan) {
    std::multiset<std::pair<int32_t, int32_t>> wanted;  // token, expert
    std::multiset<std::pair<int32_t, int32_t>> planned;
    for (int64_t t = 0; t < drawn.tokens[rank]; ++t) {
      for (int32_t j = 0; j < drawn.top_k; ++j) {
        const int32_t id = drawn.ids[rank][t * drawn.top_k + j];
        if (id >= 0) wanted.emplace(static_cast<int32_t>(t), id);
      }
    }
    for (int d = 0; d < drawn.shape.num_ranks; ++d) {
      for (int32_t i = 0; i < plan.send_counts[d]; ++i) {
        const int32_t* header = plan.Header(d * drawn.capacity + i);
        EXPECT_EQ(header[RowHeader::kToken], plan.send_tokens[d * drawn.capacity + i]);
        EXPECT_GE(header[RowHeader::kNumSlots], 1);
        for (int32_t s = 0; s < header[RowHeader::kNumSlots]; ++s) {
          const int32_t slot = d * drawn.shape.slots_per_rank + header[RowHeader::kSlots + s];
          planned.emplace(header[RowHeader::kToken], drawn.slot_experts[slot]);
        }
      }
    }
    EXPECT_EQ(planned, wanted);
  });
}

TEST(PlannerTest, ATokenAppearsOncePerDestinationInTokenOrder) {
  ForEachPlan([](const DispatchCase& drawn, int rank, const Plan& plan) {
    for (int d = 0; d < drawn.shape.num_ranks; ++d) {
      EXPECT_LE(plan.send_counts[d], drawn.tokens[rank]);
      EXPECT_LE(drawn.tokens[rank], drawn.capacity);
      for (int32_t i = 1; i < plan.send_counts[d]; ++i) {
        EXPECT_GT(plan.send_tokens[d * drawn.capacity + i],
                  plan.send_tokens[d * drawn.capacity + i - 1]);
      }
    }
  });
}

TEST(PlannerTest, InverseMapsLeadBack) {
  ForEachPlan([](const DispatchCase& drawn, int rank, const Plan& plan) {
    std::set<int32_t> rows_seen;
    std::set<int32_t> pairs_seen;
    int64_t rows = 0;
    int64_t pairs = 0;
    for (int64_t t = 0; t < drawn.tokens[rank]; ++t) {
      const int32_t width = plan.layout.rows_per_token();
      for (int32_t i = 0; i < width; ++i) {
        const int32_t row = plan.token_rows[t * width + i];
        if (row < 0) continue;
        EXPECT_EQ(plan.send_tokens[row], t);
        EXPECT_TRUE(i == 0 || plan.token_rows[t * width + i - 1] < row);
        rows_seen.insert(row);
        ++rows;
      }
      for (int32_t j = 0; j < drawn.top_k; ++j) {
        const int32_t pair = plan.pair_rows[t * drawn.top_k + j];
        EXPECT_EQ(pair < 0, drawn.ids[rank][t * drawn.top_k + j] < 0);
        if (pair < 0) continue;
        pairs_seen.insert(pair);
        ++pairs;
      }
    }
    EXPECT_EQ(static_cast<int64_t>(rows_seen.size()), rows);
    EXPECT_EQ(static_cast<int64_t>(pairs_seen.size()), pairs);
    EXPECT_EQ(std::accumulate(plan.send_counts.begin(), plan.send_counts.end(), int64_t{0}), rows);
    EXPECT_EQ(std::accumulate(plan.pair_counts.begin(), plan.pair_counts.end(), int64_t{0}), pairs);
  });
}

// Every destination sorts what all sources send: a permutation with monotone offsets.
TEST(SortRowsTest, IsAStablePermutation) {
  for (uint32_t seed = 1; seed <= 60; ++seed) {
    SCOPED_TRACE(testing::Message() << "seed " << seed);
    const int ranks = static_cast<int>(seed % 8) + 1;
    const DispatchCase drawn = DrawCase(seed, ranks, DType::kF32);
    std::vector<Plan> plans;
    for (int rank = 0; rank < ranks; ++rank) {
      plans.emplace_back(drawn, rank);
      const Plan& plan = plans.back();
      oracle::PlanOutput out = plan.out;
      ASSERT_TRUE(oracle::PlanDispatch(plan.in, out));
      oracle::ClearUnusedHeaders(plan.in, out);
    }
    const DispatchShape& layout = plans[0].layout;
    const int64_t words = HeaderWords(layout.row_slots());
    for (int d = 0; d < ranks; ++d) {
      std::vector<int32_t> headers;
      std::vector<int32_t> counts;
      for (const Plan& plan : plans) {
        const auto begin = plan.headers.begin() + d * drawn.capacity * words;
        headers.insert(headers.end(), begin, begin + drawn.capacity * words);
        counts.push_back(plan.send_counts[d]);
      }
      for (const bool padded : {false, true}) {
        std::vector<int32_t> recv_counts = padded ? std::vector<int32_t>(ranks, -9) : counts;
        std::vector<int32_t> pair_counts(ranks);
        std::vector<int32_t> offsets(layout.slots_per_rank + 1, -9);
        std::vector<int32_t> row_index(layout.num_rows() * layout.row_slots(), -9);
        std::vector<int32_t> sorted_row(row_index.size(), -9);
        std::vector<int32_t> result_rows(layout.num_rows(), -9);
        const oracle::ReceivedRows rows{.headers = headers.data(),
                                        .recv_counts = recv_counts.data(),
                                        .pair_counts = pair_counts.data(),
                                        .offsets = offsets.data(),
                                        .row_index = row_index.data(),
                                        .sorted_rows = sorted_row.data(),
                                        .result_rows = result_rows.data()};
        ASSERT_TRUE(oracle::SortRows(layout, padded, rows));
        EXPECT_EQ(recv_counts, counts);
        EXPECT_TRUE(std::is_sorted(offsets.begin(), offsets.end()));
        int64_t pairs = 0;
        for (int s = 0; s < ranks; ++s) {
          EXPECT_EQ(pair_counts[s], plans[s].pair_counts[d]);
          int64_t chunk_pairs = 0;
          for (int32_t i = 0; i < counts[s]; ++i) {
            const int64_t row = s * drawn.capacity + i;
            const int32_t* header = headers.data() + row * words;
            EXPECT_EQ(result_rows[row], s * drawn.capacity * layout.row_slots() + chunk_pairs);
            chunk_pairs += header[RowHeader::kNumSlots];
            for (int32_t j = 0; j < header[RowHeader::kNumSlots]; ++j, ++pairs) {
              const int32_t sorted = sorted_row[row * layout.row_slots() + j];
              EXPECT_EQ(row_index[sorted], row);
              const int32_t slot = header[RowHeader::kSlots + j];
              EXPECT_TRUE(sorted >= offsets[slot] && sorted < offsets[slot + 1]);
            }
          }
        }
        EXPECT_EQ(offsets.back(), pairs);
        for (int32_t e = 0; e < layout.slots_per_rank; ++e) {
          for (int32_t r = offsets[e] + 1; r < offsets[e + 1]; ++r) {
            EXPECT_LT(row_index[r - 1], row_index[r]);
          }
        }
      }
    }
  }
}

TEST(PlannerTest, LocalReplicaFirstThenByTurns) {
  const PlacementShape shape{.num_experts = 2, .num_ranks = 3, .slots_per_rank = 2};
  const auto placement = Placement::Create(shape, {0, 1, 0, -1, 1, -1});
  ASSERT_TRUE(placement.ok());
  EXPECT_EQ(ChooseSlot(placement->view(), 0, 1, 7), 2);
  EXPECT_EQ(ChooseSlot(placement->view(), 1, 0, 7), 1);
  EXPECT_EQ(ChooseSlot(placement->view(), 0, 2, 0), 0);
  EXPECT_EQ(ChooseSlot(placement->view(), 0, 2, 1), 2);
}

}  // namespace
}  // namespace tessera
