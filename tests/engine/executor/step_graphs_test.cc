// Decode steps as graphs: captured when the worker gets its KV cache, never in a step, and with the
// bits that enqueued steps have.
#include "engine/executor/step_graphs.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <numeric>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "engine/executor/rank_connector.h"
#include "engine/executor/rank_worker.h"
#include "kernels/cuda/cuda_ops.h"
#include "kernels/cuda/fake/emulated_gpus.h"
#include "kernels/ops.h"
#include "parallel/topology.h"
#include "tests/support/golden_files.h"

namespace tessera {
namespace {

constexpr int32_t kBlockSize = 4;
constexpr int32_t kBlocksPerSequence = 6;
constexpr int32_t kMaxSequences = 4;
constexpr int32_t kMaxPositions = 72;
// Of decode steps: 1, 2, 4 sequences with tables of 16 and of 18 blocks.
constexpr int32_t kBuckets = 6;
constexpr int32_t kDecodeSteps = 2;

std::unique_ptr<RankWorker> MakeWorker(const std::string& model, DType dtype, bool graphs) {
  const auto config = LoadModelConfig(ReferenceModelDir(model));
  const Topology topology = *Topology::Create({1, 1, false}, 0);
  RankConnector connector({});
  auto worker = RankWorker::Create(
      *config, MakeShard(*config, topology),
      {.dtype = dtype,
       .block_size = kBlockSize,
       .max_tokens = 12,
       .max_num_seqs = kMaxSequences,
       .max_positions = kMaxPositions,
       .graphs = graphs},
      *Checkpoint::Open(ReferenceModelDir(model)),
      [&](Device* device) { return connector.Connect({.topology = topology, .device = device}); },
      *CreateEmulatedCudaOps({}), nullptr);
  TESSERA_CHECK(worker.ok());
  TESSERA_CHECK((*worker)->AllocateKv(kMaxSequences * kBlocksPerSequence).ok());
  return *std::move(worker);
}

// What one sequence adds to a step.
struct Piece {
  int32_t sequence = 0;
  int32_t begin = 0;  // its position
  std::vector<int32_t> tokens;
  bool drawn = false;  // instead of `tokens`: the one that this sequence's row drew just before
};

SamplingPlan GreedyRows(const std::vector<int32_t>& positions) {
  const size_t rows = positions.size();
  SamplingPlan plan;
  plan.position = positions;
  for (auto* values : {&plan.forced, &plan.penalty_slot, &plan.mask_row}) values->assign(rows, -1);
  for (auto* values : {&plan.top_k, &plan.penalty_reset}) values->assign(rows, 0);
  for (auto* values : {&plan.temperature, &plan.min_p, &plan.presence_penalty}) {
    values->assign(rows, 0.0F);
  }
  plan.frequency_penalty.assign(rows, 0.0F);
  for (auto* values : {&plan.top_p, &plan.repetition_penalty}) values->assign(rows, 1.0F);
  plan.seed.assign(rows, 0);
  plan.num_logprobs.assign(rows, 2);
  plan.pen_offsets.assign(rows + 1, 0);
  plan.adj_offsets.assign(rows + 1, 0);
  return plan;
}

StepPlan PlanOf(const std::vector<Piece>& pieces) {
  StepPlan plan{.return_logits = true};
  BatchPlan& batch = plan.groups.emplace_back();
  batch.cu_seqlens = {0};
  batch.max_blocks = kBlocksPerSequence;
  std::vector<int32_t> drawn_positions;
  for (size_t row = 0; row < pieces.size(); ++row) {
    const Piece& piece = pieces[row];
    const auto count = piece.drawn ? 1 : static_cast<int32_t>(piece.tokens.size());
    for (int32_t i = 0; i < count; ++i) {
      batch.token_ids.push_back(piece.drawn ? -1 : piece.tokens[i]);
      batch.token_source.push_back(piece.drawn ? static_cast<int32_t>(row) : -1);
      batch.positions.push_back(piece.begin + i);
      batch.slot_mapping.push_back(piece.sequence * kBlocksPerSequence * kBlockSize + piece.begin +
                                   i);
    }
    batch.cu_seqlens.push_back(batch.num_tokens());
    batch.context_lens.push_back(piece.begin + count);
    for (int32_t b = 0; b < kBlocksPerSequence; ++b) {
      batch.block_tables.push_back(piece.sequence * kBlocksPerSequence + b);
    }
    batch.logits_rows.push_back(batch.num_tokens() - 1);
    drawn_positions.push_back(piece.begin + count);
  }
  batch.sampling = GreedyRows(drawn_positions);
  return plan;
}

BatchResult RunStep(RankWorker& worker, const std::vector<Piece>& pieces) {
  EXPECT_TRUE(worker.Begin(PlanOf(pieces)).ok());
  absl::StatusOr<RankWorkerResult> result = worker.Finish(absl::Minutes(5));
  EXPECT_TRUE(result.ok()) << result.status();
  return result.ok() ? std::move(result->batch) : BatchResult();
}

// A prompt of every sequence, then decode steps; the last one finds its tokens on the device.
std::vector<BatchResult> Decode(RankWorker& worker, int32_t sequences) {
  std::vector<Piece> pieces;
  for (int32_t s = 0; s < sequences; ++s) {
    Piece& piece = pieces.emplace_back(Piece{.sequence = s});
    piece.tokens.resize(3 + s);
    std::iota(piece.tokens.begin(), piece.tokens.end(), 20 * s + 5);
  }
  std::vector<BatchResult> results = {RunStep(worker, pieces)};
  for (int step = 0; step < kDecodeSteps; ++step) {
    for (int32_t s = 0; s < sequences; ++s) {
      const auto end = pieces[s].begin + static_cast<int32_t>(pieces[s].tokens.size());
      pieces[s] = {.sequence = s, .begin = end, .tokens = {results.back().token[s]}};
      pieces[s].drawn = step + 1 == kDecodeSteps;
    }
    results.push_back(RunStep(worker, pieces));
  }
  return results;
}

class StepGraphsTest : public testing::TestWithParam<std::tuple<std::string, DType>> {};
INSTANTIATE_TEST_SUITE_P(All, StepGraphsTest,
                         testing::Combine(testing::Values("dense-sliding", "moe"),
                                          testing::Values(DType::kF32, DType::kBF16)),
                         [](const auto& tested) {
                           const bool dense = std::get<0>(tested.param) == "dense-sliding";
                           return std::string(dense ? "dense_" : "moe_") +
                                  std::string(DTypeName(std::get<1>(tested.param)));
                         });

TEST_P(StepGraphsTest, GiveTheBitsOfEnqueuedSteps) {
  const auto& [model, dtype] = GetParam();
  const auto begin = simt::fake::CountedGraphCalls();
  const auto enqueues = MakeWorker(model, dtype, /*graphs=*/false);
  EXPECT_EQ(simt::fake::CountedGraphCalls().captured, begin.captured);
  EXPECT_EQ(enqueues->step_graphs().count, 0);
  const auto replays = MakeWorker(model, dtype, /*graphs=*/true);
  EXPECT_EQ(simt::fake::CountedGraphCalls().captured, begin.captured + kBuckets);
  EXPECT_EQ(replays->step_graphs().count, kBuckets);
  // Buckets of 1, 2 and 4 sequences, the last one with padding; of the slower model that one only.
  const std::vector<int32_t> batches = model == "moe" ? std::vector{3} : std::vector{1, 2, 3};
  for (const int32_t sequences : batches) {
    SCOPED_TRACE(sequences);
    const auto before = simt::fake::CountedGraphCalls();
    const std::vector<BatchResult> expected = Decode(*enqueues, sequences);
    EXPECT_EQ(simt::fake::CountedGraphCalls().launched, before.launched);
    const std::vector<BatchResult> results = Decode(*replays, sequences);
    // The prompt is enqueued. Nothing is captured in a step.
    EXPECT_EQ(simt::fake::CountedGraphCalls().launched, before.launched + kDecodeSteps);
    EXPECT_EQ(simt::fake::CountedGraphCalls().captured, before.captured);
    for (size_t step = 0; step < results.size(); ++step) {
      SCOPED_TRACE(step);
      EXPECT_EQ(results[step].token, expected[step].token);
      EXPECT_EQ(results[step].logprob, expected[step].logprob);
      EXPECT_EQ(results[step].rank, expected[step].rank);
      EXPECT_EQ(results[step].top_tokens, expected[step].top_tokens);
      EXPECT_EQ(results[step].logits, expected[step].logits);
    }
  }
  EXPECT_EQ(simt::fake::AnyReport(), "");
}

// A new cache lies elsewhere: its graphs are captured anew.
TEST(StepGraphsOfAWorkerTest, FollowTheKvCache) {
  const auto worker = MakeWorker("dense-sliding", DType::kBF16, true);
  const std::vector<BatchResult> expected = Decode(*worker, 1);
  ASSERT_TRUE(worker->AllocateKv(2 * kMaxSequences * kBlocksPerSequence).ok());
  EXPECT_EQ(worker->step_graphs().count, kBuckets);
  const std::vector<BatchResult> results = Decode(*worker, 1);
  EXPECT_EQ(results.back().logits, expected.back().logits);
  EXPECT_EQ(simt::fake::AnyReport(), "");
}

// More alternatives than there is room for in place leave the tokens where graphs look for them.
TEST(StepGraphsOfAWorkerTest, FindTokensBesideManyAlternatives) {
  const auto worker = MakeWorker("dense-sliding", DType::kF32, true);
  const auto run = [&](int32_t alternatives) {
    RunStep(*worker, {{.tokens = {7, 8, 9}}});
    StepPlan plan = PlanOf({{.begin = 3, .tokens = {11}}});
    plan.groups[0].sampling.num_logprobs = {alternatives};
    EXPECT_TRUE(worker->Begin(plan).ok());
    const absl::StatusOr<RankWorkerResult> result = worker->Finish(absl::Minutes(5));
    EXPECT_TRUE(result.ok()) << result.status();
    EXPECT_EQ(result->batch.top_tokens.size(), size_t(alternatives));
    EXPECT_EQ(result->batch.top_tokens[0], result->batch.token[0]);
    EXPECT_EQ(result->batch.top_logprobs[0], result->batch.logprob[0]);
    return RunStep(*worker, {{.begin = 4, .drawn = true}}).logits;
  };
  const std::vector<float> few = run(1);
  EXPECT_EQ(run(288), few);  // the whole vocabulary
  EXPECT_EQ(run(2), few);
  EXPECT_EQ(simt::fake::AnyReport(), "");
}

}  // namespace
}  // namespace tessera
