// Decode steps as graphs: captured when the worker gets its KV cache, never in a step, and with the
// bits that enqueued steps have. One rank: on every GPU backend that this machine can execute.
#include "engine/executor/step_graphs.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <memory>
#include <numeric>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "engine/executor/rank_connector.h"
#include "engine/executor/rank_worker.h"
#include "kernels/cuda/emulation/emulator.h"
#include "kernels/cuda/fake/emulated_gpus.h"
#include "kernels/cuda/fake/machine_faults.h"
#include "kernels/ops.h"
#include "parallel/topology.h"
#include "tests/parallel/rank_threads.h"
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

constexpr std::string_view kEmulated = "cuda-emulated";

struct WorkerOptions {
  std::string model;
  DType dtype = DType::kF32;
  bool graphs = true;
  uint64_t steps_per_timed_one = 1000;
  std::string_view backend = kEmulated;
  MoeComm moe_comm = MoeComm::kAllReduce;
};

std::unique_ptr<RankWorker> MakeWorker(const WorkerOptions& options, const Topology& topology,
                                       RankConnector& connector) {
  const std::string folder = ReferenceModelDir(options.model);
  const auto config = LoadModelConfig(folder);
  auto worker = RankWorker::Create(
      *config, MakeShard(*config, topology),
      {.dtype = options.dtype,
       .block_size = kBlockSize,
       .max_tokens = 12,
       .max_num_seqs = kMaxSequences,
       .max_positions = kMaxPositions,
       .graphs = options.graphs,
       .steps_per_timed_one = options.steps_per_timed_one},
      *Checkpoint::Open(folder),
      [&](Device* device) {
        return connector.Connect({.topology = topology, .device = device, .shared_seat = nullptr});
      },
      *CreateOps({.backend = options.backend, .device_index = topology.rank()}), nullptr);
  TESSERA_CHECK(worker.ok());
  TESSERA_CHECK((*worker)->AllocateKv(kMaxSequences * kBlocksPerSequence).ok());
  return *std::move(worker);
}

std::unique_ptr<RankWorker> MakeWorker(const WorkerOptions& options) {
  RankConnector connector({});
  return MakeWorker(options, *Topology::Create({1, 1, false}, 0), connector);
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
  plan.mask_penalty.assign(rows, 0.0F);
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

std::vector<WorkerOptions> WorkerCases() {
  std::vector<WorkerOptions> cases;
  for (const std::string_view backend : LinkedBackends()) {
    if (backend != kEmulated && backend != "cuda") continue;
    for (const char* model : {"dense-sliding", "moe"}) {
      for (const DType dtype : {DType::kF32, DType::kBF16}) {
        cases.push_back({.model = model, .dtype = dtype, .backend = backend});
      }
    }
  }
  return cases;
}

std::string TestName(const WorkerOptions& options) {
  return std::string(options.model == "moe" ? "moe_" : "dense_") +
         std::string(DTypeName(options.dtype)) +
         (options.backend == kEmulated ? "_cuda_emulated" : "_cuda");
}

class StepGraphsTest : public testing::TestWithParam<WorkerOptions> {
 protected:
  static std::unique_ptr<RankWorker> MakeWorkerWith(bool graphs) {
    WorkerOptions options = GetParam();
    options.graphs = graphs;
    return MakeWorker(options);
  }
};
INSTANTIATE_TEST_SUITE_P(All, StepGraphsTest, testing::ValuesIn(WorkerCases()),
                         [](const auto& tested) { return TestName(tested.param); });

TEST_P(StepGraphsTest, GiveTheBitsOfEnqueuedSteps) {
  // Only emulated GPUs count their graphs.
  const int counted = GetParam().backend == kEmulated ? 1 : 0;
  const auto begin = simt::fake::CountedGraphCalls();
  const auto enqueues = MakeWorkerWith(/*graphs=*/false);
  EXPECT_EQ(simt::fake::CountedGraphCalls().captured, begin.captured);
  EXPECT_EQ(enqueues->step_graphs().count, 0);
  const auto replays = MakeWorkerWith(/*graphs=*/true);
  EXPECT_EQ(simt::fake::CountedGraphCalls().captured, begin.captured + counted * kBuckets);
  EXPECT_EQ(replays->step_graphs().count, kBuckets);
  // Buckets of 1, 2 and 4 sequences, the last one with padding; of the slower model that one only.
  const std::vector<int32_t> batches =
      GetParam().model == "moe" ? std::vector{3} : std::vector{1, 2, 3};
  for (const int32_t sequences : batches) {
    SCOPED_TRACE(sequences);
    const auto before = simt::fake::CountedGraphCalls();
    const std::vector<BatchResult> expected = Decode(*enqueues, sequences);
    EXPECT_EQ(simt::fake::CountedGraphCalls().launched, before.launched);
    const std::vector<BatchResult> results = Decode(*replays, sequences);
    // The prompt is enqueued. Nothing is captured in a step.
    EXPECT_EQ(simt::fake::CountedGraphCalls().launched, before.launched + counted * kDecodeSteps);
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
  const auto worker = MakeWorker({"dense-sliding", DType::kBF16});
  const std::vector<BatchResult> expected = Decode(*worker, 1);
  ASSERT_TRUE(worker->AllocateKv(2 * kMaxSequences * kBlocksPerSequence).ok());
  EXPECT_EQ(worker->step_graphs().count, kBuckets);
  const std::vector<BatchResult> results = Decode(*worker, 1);
  EXPECT_EQ(results.back().logits, expected.back().logits);
  EXPECT_EQ(simt::fake::AnyReport(), "");
}

// More alternatives than there is room for in place leave the tokens where graphs look for them.
TEST(StepGraphsOfAWorkerTest, FindTokensBesideManyAlternatives) {
  const auto worker = MakeWorker({"dense-sliding", DType::kF32});
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

// All ranks of a layout, each on a GPU and, while they work, on a thread of its own.
class Ranks {
 public:
  Ranks(const WorkerOptions& options, const LayoutRequest& layout)
      : connector_({.moe_comm = options.moe_comm, .backend = "cuda-emulated"}),
        workers_(layout.tensor_parallel * layout.data_parallel) {
    OnEach([&](size_t rank) {
      workers_[rank] =
          MakeWorker(options, *Topology::Create(layout, static_cast<int>(rank)), connector_);
    });
  }
  ~Ranks() {
    OnEach([&](size_t rank) { workers_[rank].reset(); });
  }

  const StepGraphFacts& step_graphs() const { return workers_[0]->step_graphs(); }

  // The results of the groups, and whether the collective operations of all ranks were timed.
  std::pair<std::vector<BatchResult>, bool> Run(const StepPlan& plan) {
    std::vector<RankWorkerResult> results(workers_.size());
    OnEach([&](size_t rank) {
      EXPECT_TRUE(workers_[rank]->Begin(plan).ok());
      auto result = workers_[rank]->Finish(absl::Minutes(5));
      EXPECT_TRUE(result.ok()) << result.status();
      if (result.ok()) results[rank] = *std::move(result);
    });
    std::vector<BatchResult> groups;
    bool timed = true;
    for (RankWorkerResult& result : results) {
      timed &= result.report.collectives_timed;
      if (!result.batch.logits.empty()) groups.push_back(std::move(result.batch));
    }
    return {std::move(groups), timed};
  }

 private:
  void OnEach(const std::function<void(size_t rank)>& work) {
    RunRankThreads(static_cast<int>(workers_.size()),
                   [&](int rank) { work(static_cast<size_t>(rank)); });
  }

  RankConnector connector_;
  std::vector<std::unique_ptr<RankWorker>> workers_;
};

StepPlan PlanOfGroups(const std::vector<std::vector<Piece>>& groups) {
  StepPlan plan{.return_logits = true};
  for (const std::vector<Piece>& pieces : groups) {
    plan.groups.push_back(std::move(PlanOf(pieces).groups[0]));
  }
  return plan;
}

// Prompts, then decode steps, as enqueued and as graphs. The second group has less to do.
void ExpectSameBits(Ranks& enqueues, Ranks& replays, bool two_groups) {
  EXPECT_EQ(enqueues.step_graphs().count, 0);
  EXPECT_EQ(replays.step_graphs().count, kBuckets);
  const auto step = [&](const std::vector<Piece>& first, const std::vector<Piece>& second) {
    const StepPlan plan = two_groups ? PlanOfGroups({first, second}) : PlanOfGroups({first});
    const auto [expected, timed] = enqueues.Run(plan);
    EXPECT_TRUE(timed);
    const auto [results, all_timed] = replays.Run(plan);
    EXPECT_EQ(results.size(), expected.size());
    for (size_t g = 0; g < results.size(); ++g) {
      EXPECT_EQ(results[g].token, expected[g].token);
      EXPECT_EQ(results[g].logits, expected[g].logits);
    }
    return !all_timed;
  };
  EXPECT_FALSE(step({{.tokens = {3, 4}}, {.sequence = 1, .tokens = {5, 6, 7}}}, {}));
  EXPECT_FALSE(step({{.begin = 2, .tokens = {9}}}, {{.tokens = {11, 12}}}) && two_groups);
  EXPECT_TRUE(step({{.begin = 2, .tokens = {9}}, {.sequence = 1, .begin = 3, .tokens = {8}}},
                   {{.begin = 2, .tokens = {13}}}));
  EXPECT_TRUE(step({{.begin = 3, .drawn = true}}, {{.begin = 3, .drawn = true}}));
  EXPECT_TRUE(step({{.begin = 4, .tokens = {21}}}, {}));
  EXPECT_EQ(simt::fake::AnyReport(), "");
}

void ExpectSameBits(const WorkerOptions& options, const LayoutRequest& layout) {
  WorkerOptions enqueue = options;
  enqueue.graphs = false;
  Ranks enqueues(enqueue, layout);
  Ranks replays(options, layout);
  ExpectSameBits(enqueues, replays, layout.data_parallel == 2);
}

// Forced switches inside kernels are for the kernels' own tests.
class StepGraphsOfRanksTest : public testing::Test {
 protected:
  void SetUp() override {
    simt::emulation::Options options = simt::emulation::GetOptions();
    options.preempt_every = 0;
    simt::emulation::SetOptions(options);
  }
  void TearDown() override {
    simt::emulation::SetOptions(simt::emulation::OptionsFromEnvironment());
  }
};

TEST_F(StepGraphsOfRanksTest, GiveTheBitsOfTensorParallelSteps) {
  ExpectSameBits({"dense-sliding", DType::kF32}, {.tensor_parallel = 2});
}
TEST_F(StepGraphsOfRanksTest, GiveTheBitsOfDataAndExpertParallelSteps) {
  ExpectSameBits({"moe-sparse-step-2", DType::kBF16},
                 {.data_parallel = 2, .expert_parallel = true});
}

// Rows travel in graphs too. Counts stay on GPUs that reach each other's memory; between others
// NCCL exchanges whole chunks. Both have the bits of the exact exchange.
TEST_F(StepGraphsOfRanksTest, GiveTheBitsOfStepsThatExchangeRows) {
  const LayoutRequest layout = {.data_parallel = 2, .expert_parallel = true};
  WorkerOptions options = {
      .model = "moe-sparse-step-2", .dtype = DType::kBF16, .moe_comm = MoeComm::kAllToAll};
  Ranks over_peers(options, layout);
  options.graphs = false;
  Ranks enqueues(options, layout);
  ExpectSameBits(enqueues, over_peers, /*two_groups=*/true);
  simt::fake::SetFaults({.peer_access = false});
  options.graphs = true;
  Ranks over_nccl(options, layout);
  simt::fake::SetFaults({});
  ExpectSameBits(enqueues, over_nccl, /*two_groups=*/true);
}

TEST_F(StepGraphsOfRanksTest, AreOfWantedBucketsOnly) {
  const auto ops = CreateOps({.backend = kEmulated});
  ASSERT_TRUE(ops.ok()) << ops.status();
  const StepLimits limits{.max_tokens = 12,
                          .max_sequences = kMaxSequences,
                          .max_blocks = kBlocksPerSequence,
                          .max_positions = kMaxPositions,
                          .vocab_size = 288};
  auto inputs = StepInputs::Create(&(*ops)->device(), limits);
  ASSERT_TRUE(inputs.ok()) << inputs.status();
  std::vector<int64_t> captured;
  StepGraphs graphs;
  ASSERT_TRUE(graphs
                  .CaptureAll({.ops = **ops,
                               .inputs = *inputs,
                               .limits = limits,
                               .wanted = [](const StepExtents& e) { return e.tokens <= 2; },
                               .enqueue =
                                   [&](const StepViews& views) {
                                     captured.push_back(views.extents.tokens);
                                   }})
                  .ok());
  EXPECT_EQ(captured, (std::vector<int64_t>{1, 2}));
  EXPECT_EQ(graphs.facts().count, 2);
  const std::vector<StepExtents> buckets = DecodeBuckets(limits);
  ASSERT_EQ(buckets.size(), 3U);
  EXPECT_NE(graphs.Find(buckets[1]), nullptr);
  EXPECT_EQ(graphs.Find(buckets[2]), nullptr);
}

// So that the time of collective operations stays known.
TEST_F(StepGraphsOfRanksTest, OneStepOfManyIsEnqueued) {
  Ranks ranks({.model = "dense-sliding", .dtype = DType::kBF16, .steps_per_timed_one = 2},
              {.tensor_parallel = 2});
  for (int step = 0; step < 3; ++step) {
    const auto [results, timed] = ranks.Run(PlanOfGroups({{{.begin = 0, .tokens = {9}}}}));
    EXPECT_EQ(timed, step != 1) << step;
  }
}

}  // namespace
}  // namespace tessera
