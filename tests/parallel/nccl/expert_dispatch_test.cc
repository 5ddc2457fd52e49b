// Rows to their experts and back between GPUs, enqueued and as a graph: nothing is lost, whatever
// the router chooses, and the bits are the same over peers' memory and over NCCL, counted and
// padded.
#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "kernels/cuda/fake/emulated_gpus.h"
#include "kernels/cuda/fake/machine_faults.h"
#include "kernels/ops.h"
#include "parallel/experts/dispatcher.h"
#include "parallel/nccl/gpu_transport.h"
#include "tests/parallel/experts/dispatch_case.h"
#include "tests/parallel/rank_threads.h"

namespace tessera {
namespace {

// Expert e returns its input times this. Small integers: sums of them are exact in bfloat16 too.
int ScaleOf(int32_t expert) { return 1 + expert % 3; }

struct Step {
  std::vector<int32_t> ids;    // [T, k]
  std::vector<float> weights;  // [T, k]
  std::vector<float> x;        // [T, H]
  std::vector<float> expected;
};

// `same`: all tokens of all ranks choose the same experts.
Step DrawStep(const DispatchCase& drawn, int rank, bool same, TestRandom& random) {
  const int64_t tokens = drawn.tokens[rank];
  const int64_t hidden = drawn.hidden;
  Step step{.x = std::vector<float>(tokens * hidden), .expected = {}};
  for (float& value : step.x) value = static_cast<float>(random.Below(9) - 4);
  step.expected.assign(step.x.size(), 0);
  for (int64_t t = 0; t < tokens; ++t) {
    std::vector<int32_t> choice(drawn.top_k);
    std::iota(choice.begin(), choice.end(), 0);
    if (!same) {
      choice = RandomChoice(drawn.shape.num_experts, drawn.top_k, /*hot=*/false, random);
    }
    for (int32_t id : choice) {
      const bool none = !same && random.Below(6) == 0;
      const auto weight = static_cast<float>(1 + random.Below(3));
      const float factor = weight * static_cast<float>(ScaleOf(id));
      step.ids.push_back(none ? -1 : id);
      step.weights.push_back(weight);
      for (int64_t i = 0; i < hidden && !none; ++i) {
        step.expected[t * hidden + i] += factor * step.x[t * hidden + i];
      }
    }
  }
  return step;
}

// One rank's buffers and experts.
class Layer {
 public:
  Layer(Ops& ops, Communicator& communicator, const DispatchCase& drawn, ExchangeMode exchange)
      : ops_(ops),
        drawn_(drawn),
        placement_(*PlacementTable::Create(&ops.device(),
                                           *Placement::Create(drawn.shape, drawn.slot_experts))),
        ids_(&ops.device(), DType::kI32, {drawn.tokens[communicator.rank()], drawn.top_k}),
        weights_(&ops.device(), DType::kF32, {drawn.tokens[communicator.rank()], drawn.top_k}),
        x_(&ops.device(), drawn.dtype, drawn.tokens[communicator.rank()], drawn.hidden),
        y_(&ops.device(), drawn.dtype,
           drawn.shape.num_ranks * drawn.capacity *
               std::min(drawn.top_k, drawn.shape.slots_per_rank),
           drawn.hidden),
        out_(&ops.device(), drawn.dtype, drawn.tokens[communicator.rank()], drawn.hidden) {
    PrepareExperts(communicator.rank());
    DispatcherOptions options = OptionsFor(drawn, CombineMode::kExact, exchange);
    options.max_tokens = drawn.capacity;
    auto dispatcher = ExpertDispatcher::Create(&ops, &communicator, options);
    TESSERA_CHECK(dispatcher.ok());
    dispatcher_ = *std::move(dispatcher);
  }

  void Set(const Step& step) {
    ids_.Set(step.ids);
    weights_.Set(step.weights);
    x_.Set(step.x);
    out_.Fill(-1);
  }
  void Enqueue() {
    DispatchedRows rows = dispatcher_->Dispatch(x_.view(), {.ids = ids_.view(),
                                                            .weights = weights_.view(),
                                                            .placement = &placement_,
                                                            .capacity = drawn_.capacity});
    const TensorView y = y_.view().Rows(0, rows.max_rows);
    ops_.GroupedGemm({.x = rows.x,
                      .row_index = rows.row_index,
                      .offsets = rows.offsets,
                      .experts = experts_.get(),
                      .out = y});
    dispatcher_->Combine(std::move(rows.handle), y, out_.view());
  }
  std::vector<float> Get() const { return out_.Get(); }
  const ExpertDispatcher& dispatcher() const { return *dispatcher_; }

 private:
  void PrepareExperts(int rank) {
    const int64_t hidden = drawn_.hidden;
    const int32_t slots = drawn_.shape.slots_per_rank;
    experts_ = *ops_.CreateExpertTable({.num_slots = slots, .rows = hidden, .cols = hidden});
    for (int32_t slot = 0; slot < slots; ++slot) {
      std::vector<float> matrix(hidden * hidden);
      const auto scale = static_cast<float>(ScaleOf(drawn_.slot_experts[rank * slots + slot]));
      for (int64_t i = 0; i < hidden; ++i) matrix[i * hidden + i] = scale;
      matrices_.push_back(*ops_.PrepareWeight({.parts = {{.data = matrix.data(),
                                                          .dtype = DType::kF32,
                                                          .rows = hidden,
                                                          .cols = hidden,
                                                          .row_stride = hidden}},
                                               .dtype = drawn_.dtype}));
      experts_->Set(slot, *matrices_.back());
    }
  }

  Ops& ops_;
  const DispatchCase& drawn_;
  PlacementTable placement_;
  TestTensor<int32_t> ids_;
  TestTensor<float> weights_;
  RowTensor x_, y_, out_;
  std::vector<std::unique_ptr<Weight>> matrices_;
  std::unique_ptr<ExpertTable> experts_;
  std::unique_ptr<ExpertDispatcher> dispatcher_;
};

// Steps of one rank, enqueued or as one graph. A graph's steps are not those of its capture.
void RunSteps(Ops& ops, Layer& layer, const DispatchCase& drawn, int rank, bool replayed) {
  TestRandom random(drawn.seed + 17 * rank);
  std::unique_ptr<StepGraph> graph;
  if (replayed) {
    ASSERT_FALSE(layer.dispatcher().WaitsForCounts(drawn.capacity));
    auto captured = ops.Capture([&] { layer.Enqueue(); });
    ASSERT_TRUE(captured.ok()) << captured.status();
    graph = *std::move(captured);
  }
  for (const bool same : {true, false, true}) {
    const Step step = DrawStep(drawn, rank, same, random);
    layer.Set(step);
    if (replayed) {
      graph->Enqueue();
    } else {
      layer.Enqueue();
    }
    EXPECT_EQ(layer.Get(), step.expected) << "seed " << drawn.seed << ", rank " << rank;
  }
}

struct Way {
  std::string name;
  bool peers = true;
  ExchangeMode exchange = ExchangeMode::kCounted;
  bool captured = true;
};

class ExpertDispatchOnGpus : public testing::TestWithParam<Way> {
 protected:
  void SetUp() override { simt::fake::SetFaults({.peer_access = GetParam().peers}); }
  void TearDown() override { simt::fake::SetFaults({}); }
};

// Also where every token of every rank goes to one rank: chunks are as long as the bucket.
TEST_P(ExpertDispatchOnGpus, LosesNothing) {
  for (const int size : {1, 2, 3, 8}) {
    SCOPED_TRACE(size);
    DispatchCase drawn = DrawCase(40 + size, size, size == 3 ? DType::kF32 : DType::kBF16, 4);
    drawn.hidden = 16;
    drawn.top_k = std::min(drawn.top_k, 3);
    for (int64_t& tokens : drawn.tokens) tokens = std::max<int64_t>(tokens, 1);
    drawn.tokens[0] = drawn.capacity;
    const auto transport = CreateEmulatedGpuTransport();
    ASSERT_TRUE(transport.ok()) << transport.status();
    RunRankThreads(size, [&](int rank) {
      auto ops = CreateOps({.backend = "cuda-emulated", .device_index = rank});
      ASSERT_TRUE(ops.ok()) << ops.status();
      auto communicator =
          (*transport)->Join({.name = "world", .rank = rank, .size = size}, &(*ops)->device());
      ASSERT_TRUE(communicator.ok()) << communicator.status();
      Layer layer(**ops, **communicator, drawn, GetParam().exchange);
      RunSteps(**ops, layer, drawn, rank, GetParam().captured);
    });
    EXPECT_EQ(simt::fake::AnyReport(), "");
    simt::fake::Reset();
  }
}

INSTANTIATE_TEST_SUITE_P(
    All, ExpertDispatchOnGpus,
    testing::Values(
        Way{.name = "OverPeers", .exchange = ExchangeMode::kPaddedIfSmall},
        Way{.name = "OverPeersEnqueued", .captured = false},
        Way{.name = "OverNccl", .peers = false, .exchange = ExchangeMode::kPaddedIfSmall},
        Way{.name = "OverNcclEnqueued", .peers = false, .captured = false}),
    [](const auto& tested) { return tested.param.name; });

}  // namespace
}  // namespace tessera
