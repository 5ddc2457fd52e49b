// What moving rows costs in an expert-parallel MoE layer: planner, dispatch and combine against the
// whole layer, 512 tokens on the layer shape of Qwen3-30B-A3B. Prints limit, value and ratio.
//
//   dispatch_bench [ranks [dtype]]      default: 2 bfloat16
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "kernels/ops.h"
#include "parallel/experts/dispatcher.h"
#include "parallel/experts/placement.h"
#include "parallel/inproc/inproc_communicator.h"

namespace tessera {
namespace {

constexpr int64_t kTokens = 512;
constexpr int64_t kHidden = 2048;
constexpr int64_t kWidth = 768;
constexpr int32_t kExperts = 128;
constexpr int32_t kTopK = 8;
// Distinct weights, used by turns: more than the caches hold, less than the whole layer.
constexpr int kDistinct = 4;
constexpr int kRepeats = 5;
constexpr double kLimit = 0.10;

void Require(const absl::Status& status) {
  if (status.ok()) return;
  std::fprintf(stderr, "%s\n", std::string(status.message()).c_str());
  std::exit(1);
}

struct Seconds {
  double move = 0;
  double compute = 0;
};

// One rank of the layer.
class Rank {
 public:
  Rank(const std::shared_ptr<InprocGroup>& group, int rank, int ranks, DType model_dtype)
      : ranks_(ranks), tokens_(kTokens / ranks) {
    auto ops = CreateOps({.backend = "cpu", .num_threads = 1});
    Require(ops.status());
    ops_ = *std::move(ops);
    dtype_ = ops_->ActivationDType(model_dtype);
    communicator_ = JoinInprocGroup(group, rank, &ops_->device());
    PrepareWeights(model_dtype);
    const PlacementShape shape{
        .num_experts = kExperts, .num_ranks = ranks, .slots_per_rank = kExperts / ranks};
    auto placement = Placement::Even(shape);
    Require(placement.status());
    auto table = PlacementTable::Create(&ops_->device(), *std::move(placement));
    Require(table.status());
    table_ = std::make_unique<PlacementTable>(*std::move(table));
    auto dispatcher = ExpertDispatcher::Create(ops_.get(), communicator_.get(),
                                               {.max_tokens = tokens_,
                                                .hidden = kHidden,
                                                .dtype = dtype_,
                                                .top_k = kTopK,
                                                .placement = shape});
    Require(dispatcher.status());
    dispatcher_ = *std::move(dispatcher);
    PrepareInputs(rank);
  }

  Seconds Step() {
    Seconds used;
    communicator_->Barrier();
    absl::Time start = absl::Now();
    DispatchedRows rows =
        dispatcher_->Dispatch(x_, {.ids = ids_, .weights = weights_, .placement = table_.get()});
    Require(ops_->device().Synchronize());
    used.move += absl::ToDoubleSeconds(absl::Now() - start);
    start = absl::Now();
    ops_->GroupedGemm({.x = rows.x,
                       .row_index = rows.row_index,
                       .offsets = rows.offsets,
                       .experts = gate_up_.get(),
                       .out = gate_up_out_});
    ops_->SiluAndMul({.x = gate_up_out_, .num_rows = rows.num_rows, .out = activation_});
    ops_->GroupedGemm(
        {.x = activation_, .offsets = rows.offsets, .experts = down_.get(), .out = y_});
    Require(ops_->device().Synchronize());
    used.compute += absl::ToDoubleSeconds(absl::Now() - start);
    communicator_->Barrier();  // waiting for slower experts is not movement
    start = absl::Now();
    dispatcher_->Combine(std::move(rows.handle), y_, out_);
    Require(ops_->device().Synchronize());
    used.move += absl::ToDoubleSeconds(absl::Now() - start);
    return used;
  }

 private:
  void PrepareWeights(DType model_dtype) {
    std::vector<float> values(2 * kWidth * kHidden);
    std::mt19937 random(7);
    for (float& value : values) value = static_cast<float>(random() % 2001) / 1e5F - 0.01F;
    const auto prepare = [&](int64_t rows, int64_t cols) {
      auto weight = ops_->PrepareWeight({.parts = {{.data = values.data(),
                                                    .dtype = DType::kF32,
                                                    .rows = rows,
                                                    .cols = cols,
                                                    .row_stride = cols}},
                                         .dtype = model_dtype});
      Require(weight.status());
      owned_.push_back(*std::move(weight));
      return owned_.back().get();
    };
    std::vector<const Weight*> gate_up;
    std::vector<const Weight*> down;
    for (int i = 0; i < kDistinct; ++i) {
      gate_up.push_back(prepare(2 * kWidth, kHidden));
      down.push_back(prepare(kHidden, kWidth));
    }
    gate_up_ = Table(gate_up);
    down_ = Table(down);
  }

  // Of all this rank's experts, which use the weights by turns.
  std::unique_ptr<ExpertTable> Table(const std::vector<const Weight*>& weights) {
    const int32_t slots = kExperts / ranks_;
    auto table = ops_->CreateExpertTable(
        {.num_slots = slots, .rows = weights[0]->rows(), .cols = weights[0]->cols()});
    Require(table.status());
    for (int32_t i = 0; i < slots; ++i) (*table)->Set(i, *weights[i % kDistinct]);
    return *std::move(table);
  }

  TensorView Allocate(DType dtype, std::initializer_list<int64_t> dims) {
    const TensorView shape(nullptr, dtype, dims);
    auto buffer = ops_->device().Allocate(shape.num_bytes(), "bench");
    Require(buffer.status());
    buffers_.push_back(*std::move(buffer));
    return buffers_.back().View(dtype, dims);
  }

  void PrepareInputs(int rank) {
    const int64_t most = kTokens * kTopK;
    x_ = Allocate(dtype_, {tokens_, kHidden});
    out_ = Allocate(dtype_, {tokens_, kHidden});
    ids_ = Allocate(DType::kI32, {tokens_, kTopK});
    weights_ = Allocate(DType::kF32, {tokens_, kTopK});
    gate_up_out_ = Allocate(dtype_, {most, 2 * kWidth});
    activation_ = Allocate(dtype_, {most, kWidth});
    y_ = Allocate(dtype_, {most, kHidden});
    std::mt19937 random(rank);
    std::vector<int32_t> ids;
    for (int64_t t = 0; t < tokens_; ++t) {
      std::vector<int32_t> all(kExperts);
      for (int32_t e = 0; e < kExperts; ++e) all[e] = e;
      std::shuffle(all.begin(), all.end(), random);
      ids.insert(ids.end(), all.begin(), all.begin() + kTopK);
    }
    const std::vector<float> weights(ids.size(), 1.0F / kTopK);
    ops_->device().Upload(ids_.data(), ids.data(), ids.size() * sizeof(int32_t));
    ops_->device().Upload(weights_.data(), weights.data(), weights.size() * sizeof(float));
  }

  const int ranks_;
  const int64_t tokens_;
  DType dtype_ = DType::kF32;
  std::unique_ptr<Ops> ops_;
  std::unique_ptr<Communicator> communicator_;
  std::vector<std::unique_ptr<Weight>> owned_;
  std::unique_ptr<ExpertTable> gate_up_;
  std::unique_ptr<ExpertTable> down_;
  std::unique_ptr<PlacementTable> table_;
  std::unique_ptr<ExpertDispatcher> dispatcher_;
  std::vector<DeviceBuffer> buffers_;
  TensorView x_, out_, ids_, weights_, gate_up_out_, activation_, y_;
};

int Main(int ranks, DType dtype) {
  auto group = CreateInprocGroup(ranks);
  std::vector<Seconds> best(ranks, {1e9, 1e9});
  std::vector<std::thread> threads;
  for (int r = 0; r < ranks; ++r) {
    threads.emplace_back([&, r] {
      Rank rank(group, r, ranks, dtype);
      for (int i = 0; i < kRepeats; ++i) {
        const Seconds used = rank.Step();
        if (used.move + used.compute < best[r].move + best[r].compute) best[r] = used;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  Seconds mean;
  for (const Seconds& seconds : best) {
    mean.move += seconds.move / ranks;
    mean.compute += seconds.compute / ranks;
  }
  const double share = mean.move / (mean.move + mean.compute);
  std::printf("%d ranks, %s: plan + dispatch + combine %.2f ms, experts %.2f ms\n", ranks,
              std::string(DTypeName(dtype)).c_str(), mean.move * 1e3, mean.compute * 1e3);
  std::printf("%-52s limit %8.3f  value %8.3f  ratio %.2f\n",
              "share of moving rows in a layer of 512 tokens", kLimit, share, share / kLimit);
  return 0;
}

}  // namespace
}  // namespace tessera

int main(int argc, char** argv) {
  const int ranks = argc > 1 ? std::atoi(argv[1]) : 2;
  const auto dtype = tessera::ParseDType(argc > 2 ? argv[2] : "bfloat16");
  if (ranks < 1 || ranks > 128 || 128 % ranks != 0 || !dtype.has_value()) {
    std::fprintf(stderr, "usage: dispatch_bench [ranks, a divisor of 128 [dtype]]\n");
    return 2;
  }
  return tessera::Main(ranks, *dtype);
}
