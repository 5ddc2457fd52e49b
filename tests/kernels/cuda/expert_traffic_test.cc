// What the operations around a mixture-of-experts layer move: sorting choices, the books of an
// exchange, rows on their way out and back. A rank sends to itself, so that its own plan is what it
// receives. Books are small and read by every block that counts in them: a cache holds them.
#include "tests/kernels/cuda/traffic.h"

namespace tessera::test {
namespace {

constexpr int64_t kTokens = 64;
constexpr int64_t kTopK = 4;
constexpr int32_t kExperts = 8;
constexpr int64_t kHidden = 512;
constexpr int64_t kChoices = kTokens * kTopK;
constexpr int64_t kInt = 4;

class ExpertTrafficTest : public TrafficTest {
 protected:
  // Every token chooses kTopK experts in a row, each token from the next one on.
  TestTensor Choices() {
    std::vector<int32_t> ids;
    for (int64_t t = 0; t < kTokens; ++t) {
      for (int64_t j = 0; j < kTopK; ++j) ids.push_back(static_cast<int32_t>((t + j) % kExperts));
    }
    return TestTensor::Ints(device(), {kTokens, kTopK}, ids);
  }
  TestTensor Ints(std::vector<int64_t> dims) { return {device(), DType::kI32, std::move(dims)}; }
};
TESSERA_TRAFFIC_SUITE(ExpertTrafficTest);

TEST_P(ExpertTrafficTest, MoePermute) {
  const TestTensor ids = Choices();
  const TestTensor offsets = Ints({kExperts + 1});
  const TestTensor row_token = Ints({kChoices});
  const TestTensor positions = Ints({kTokens, kTopK});
  ExpectTraffic((3 * kChoices + kExperts + 1) * kInt, {628, 628}, [&] {
    ops().MoePermute({.ids = ids,
                      .expert_begin = 0,
                      .num_experts = kExperts,
                      .offsets = offsets,
                      .row_token = row_token,
                      .positions = positions});
  });
}

TEST_P(ExpertTrafficTest, ConcatColumns) {
  constexpr int64_t kRows = 4;
  constexpr int64_t kWidth = 256;
  constexpr int64_t kVocab = 2 * kWidth - 3;
  const TestTensor shards(device(), DType::kF32, {2, kRows, kWidth},
                          random_.Normals(2 * kRows * kWidth));
  const TestTensor out(device(), DType::kF32, {kRows, kVocab});
  ExpectTraffic(2 * kRows * kVocab * 4, {100, 100},
                [&] { ops().ConcatColumns({.shards = shards, .out = out}); });
}

TEST_P(ExpertTrafficTest, Counts) {
  const TestTensor ids = Choices();
  const TestTensor counts = TestTensor::Longs(device(), std::vector<int64_t>(kExperts, 1));
  const TestTensor sum = TestTensor::Longs(device(), {0});
  const TestTensor rows = TestTensor::Ints(device(), {1}, {5});
  ExpectTraffic(kChoices * kInt + 2 * kExperts * 8, {723, 723},
                [&] { ops().CountChoices({.ids = ids, .counts = counts}); });
  ExpectTraffic((kExperts + 1) * 8, {100, 100},
                [&] { ops().SumCounts({.counts = counts, .sum = sum}); });
  ExpectTraffic(kInt + 2 * 8, {100, 100},
                [&] { ops().CountRows({.num_rows = rows, .total = sum}); });
}

// The tensors of one exchange.
struct Exchange {
  // `offsets_of_one`: 0, 1, 2 ..., and so are `slots_of_one`: each expert has one slot.
  Exchange(Device& device, TestTensor choices, TestTensor offsets_of_one, TestTensor slots_of_one)
      : replica_offsets(std::move(offsets_of_one)),
        replica_slots(std::move(slots_of_one)),
        ids(std::move(choices)),
        weights(device, DType::kF32, {kTokens, kTopK}, std::vector<float>(kChoices, 0.25F)),
        send_counts(device, DType::kI32, {1}),
        pair_counts(device, DType::kI32, {1}),
        send_tokens(device, DType::kI32, {kTokens}),
        headers(device, DType::kI32, {kTokens, HeaderWords(kTopK)}),
        token_rows(device, DType::kI32, {kTokens, 1}),
        pair_rows(device, DType::kI32, {kTokens, kTopK}),
        offsets(device, DType::kI32, {kExperts + 1}),
        row_index(device, DType::kI32, {kChoices}),
        sorted_rows(device, DType::kI32, {kTokens, kTopK}),
        result_rows(device, DType::kI32, {kTokens}) {}

  PlacementTensors placement() const {
    return {.replica_offsets = replica_offsets,
            .replica_slots = replica_slots,
            .num_ranks = 1,
            .slots_per_rank = kExperts};
  }

  PlanDispatchArgs Plan() const {
    return {.shape = shape,
            .placement = placement(),
            .rank = 0,
            .clear_unused = false,
            .ids = ids,
            .weights = weights,
            .send_counts = send_counts,
            .pair_counts = pair_counts,
            .send_tokens = send_tokens,
            .headers = headers,
            .token_rows = token_rows,
            .pair_rows = pair_rows};
  }
  SortRowsArgs Sort() const {
    return {.shape = shape,
            .padded = false,
            .headers = headers,
            .recv_counts = send_counts,
            .pair_counts = pair_counts,
            .offsets = offsets,
            .row_index = row_index,
            .sorted_rows = sorted_rows,
            .result_rows = result_rows};
  }

  DispatchShape shape{
      .num_ranks = 1, .slots_per_rank = kExperts, .top_k = kTopK, .capacity = kTokens};
  TestTensor replica_offsets, replica_slots, ids, weights;
  TestTensor send_counts, pair_counts, send_tokens, headers, token_rows, pair_rows;
  TestTensor offsets, row_index, sorted_rows, result_rows;
};
int64_t HeaderBytes() { return kTokens * HeaderWords(kTopK) * kInt; }

TEST_P(ExpertTrafficTest, Books) {
  const Exchange e(device(), Choices(), Ascending({kExperts + 1}), Ascending({kExperts}));
  const TestTensor slots = Ints({kTokens, kTopK});
  ExpectTraffic((2 * kChoices + 2 * kExperts + 1) * kInt, {242, 242}, [&] {
    ops().LocalSlots({.placement = e.placement(), .rank = 0, .ids = e.ids, .slots = slots});
  });
  ExpectTraffic(HeaderBytes() + (3 * kChoices + 2 * kTokens + 2 + 2 * kExperts + 1) * kInt,
                {495, 495}, [&] { ops().PlanDispatch(e.Plan()); });
  ExpectTraffic(HeaderBytes() + (2 * kChoices + kTokens + 2 + kExperts + 1) * kInt, {1084, 1084},
                [&] { ops().SortRows(e.Sort()); });
  ExpectTraffic(2 * kInt, {100, 100},
                [&] { ops().CheckReturn({.sent = e.send_counts, .returned = e.send_counts}); });
}

TEST_P(ExpertTrafficTest, Rows) {
  const Exchange e(device(), Choices(), Ascending({kExperts + 1}), Ascending({kExperts}));
  ops().PlanDispatch(e.Plan());
  ops().SortRows(e.Sort());
  const int64_t row = kHidden * size();
  const TestTensor x = Random({kTokens, kHidden});
  const TestTensor y = Random({kChoices, kHidden});
  const TestTensor chunks = Random({kTokens, kHidden});
  const TestTensor results(device(), act(), {kChoices, kHidden});
  ExpectTraffic(2 * kTokens * row + (kTokens + 1) * kInt, {125, 125}, [&] {
    ops().PackRows({.shape = e.shape,
                    .x = x,
                    .send_counts = e.send_counts,
                    .send_tokens = e.send_tokens,
                    .chunks = chunks});
  });
  ExpectTraffic((kChoices + kTokens) * row + HeaderBytes() + (kChoices + 1) * kInt, {125, 149},
                [&] {
                  ops().SumResults({.shape = e.shape,
                                    .headers = e.headers,
                                    .recv_counts = e.send_counts,
                                    .sorted_rows = e.sorted_rows,
                                    .y = y,
                                    .chunks = chunks});
                });
  ExpectTraffic(2 * kChoices * row + (kChoices + 2 * kTokens + 1) * kInt, {122, 122}, [&] {
    ops().PackResults({.shape = e.shape,
                       .headers = e.headers,
                       .recv_counts = e.send_counts,
                       .sorted_rows = e.sorted_rows,
                       .result_rows = e.result_rows,
                       .y = y,
                       .chunks = results});
  });
  ExpectTraffic(2 * kTokens * row + kTokens * kInt, {107, 113},
                [&] { ops().AddRanks({.chunks = chunks, .token_rows = e.token_rows, .out = x}); });
}

}  // namespace
}  // namespace tessera::test
