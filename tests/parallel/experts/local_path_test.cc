// One rank through the dispatcher against the operations of a single rank, on every backend.
#include <random>

#include "gtest/gtest.h"
#include "kernels/ops.h"
#include "parallel/experts/dispatcher.h"
#include "tests/parallel/test_device.h"
#include "tests/parallel/transport.h"

namespace tessera {
namespace {

constexpr int64_t kTokens = 37;
constexpr int64_t kHidden = 64;
constexpr int64_t kWidth = 32;
constexpr int32_t kExperts = 8;
constexpr int32_t kTopK = 3;

class LocalPathTest : public testing::TestWithParam<std::string_view> {
 protected:
  void SetUp() override {
    auto ops = CreateOps({.backend = GetParam()});
    ASSERT_TRUE(ops.ok()) << ops.status();
    ops_ = *std::move(ops);
    dtype_ = ops_->ActivationDType(DType::kF32);
    ASSERT_EQ(dtype_, DType::kF32);
    for (int e = 0; e < kExperts; ++e) {
      gate_up_.push_back(Prepare(2 * kWidth, kHidden));
      down_.push_back(Prepare(kHidden, kWidth));
    }
  }

  std::vector<float> Random(int64_t count) {
    std::vector<float> values(count);
    for (float& value : values) value = static_cast<float>(random_() % 2001) / 1000.0F - 1.0F;
    return values;
  }

  const Weight* Prepare(int64_t rows, int64_t cols) {
    const std::vector<float> values = Random(rows * cols);
    auto weight = ops_->PrepareWeight({.parts = {{.data = values.data(),
                                                  .dtype = DType::kF32,
                                                  .rows = rows,
                                                  .cols = cols,
                                                  .row_stride = cols}}});
    EXPECT_TRUE(weight.ok()) << weight.status();
    owned_.push_back(*std::move(weight));
    return owned_.back().get();
  }

  void RunExperts(ConstTensorView x, ConstTensorView row_index, ConstTensorView offsets,
                  TensorView y) {
    const int64_t rows = y.dim(0);
    TestTensor<float> gate_up(&ops_->device(), DType::kF32, {rows, 2 * kWidth});
    TestTensor<float> activation(&ops_->device(), DType::kF32, {rows, kWidth});
    ops_->GroupedGemm({.x = x,
                       .row_index = row_index,
                       .offsets = offsets,
                       .experts = gate_up_,
                       .out = gate_up.view()});
    ops_->SiluAndMul(
        {.x = gate_up.view(), .num_rows = offsets.Rows(kExperts, 1), .out = activation.view()});
    ops_->GroupedGemm({.x = activation.view(), .offsets = offsets, .experts = down_, .out = y});
    EXPECT_TRUE(ops_->device().Synchronize().ok()) << ops_->device().Synchronize();
  }

  std::mt19937 random_{11};
  std::unique_ptr<Ops> ops_;
  DType dtype_ = DType::kF32;
  std::vector<std::unique_ptr<Weight>> owned_;
  std::vector<const Weight*> gate_up_;
  std::vector<const Weight*> down_;
};

TEST_P(LocalPathTest, OneRankHasTheSameBits) {
  Device& device = ops_->device();
  TestTensor<float> x(&device, DType::kF32, {kTokens, kHidden}, Random(kTokens * kHidden));
  TestTensor<float> logits(&device, DType::kF32, {kTokens, kExperts}, Random(kTokens * kExperts));
  TestTensor<int32_t> ids(&device, DType::kI32, {kTokens, kTopK});
  TestTensor<float> weights(&device, DType::kF32, {kTokens, kTopK});
  ops_->RouteTopK({.logits = logits.view(), .ids = ids.view(), .weights = weights.view()});

  TestTensor<int32_t> offsets(&device, DType::kI32, {kExperts + 1});
  TestTensor<int32_t> row_token(&device, DType::kI32, {kTokens * kTopK});
  TestTensor<int32_t> positions(&device, DType::kI32, {kTokens, kTopK});
  TestTensor<float> local_y(&device, DType::kF32, {kTokens * kTopK, kHidden});
  TestTensor<float> local(&device, DType::kF32, {kTokens, kHidden});
  ops_->MoePermute({.ids = ids.view(),
                    .num_experts = kExperts,
                    .offsets = offsets.view(),
                    .row_token = row_token.view(),
                    .positions = positions.view()});
  RunExperts(x.view(), row_token.view(), offsets.view(), local_y.view());
  ops_->MoeFinalize({.y = local_y.view(),
                     .positions = positions.view(),
                     .weights = weights.view(),
                     .out = local.view()});

  const auto communicator = JoinInprocGroup(CreateInprocGroup(1), 0, &device);
  DispatcherOptions options{
      .max_tokens = kTokens + 5,
      .hidden = kHidden,
      .top_k = kTopK,
      .placement = {.num_experts = kExperts, .num_ranks = 1, .slots_per_rank = kExperts},
      .combine = CombineMode::kExact};
  options.finalize = [this](const FinalizeArgs& args) {
    ops_->MoeFinalize(
        {.y = args.y, .positions = args.positions, .weights = args.weights, .out = args.out});
  };
  auto dispatcher = ExpertDispatcher::Create(&device, communicator.get(), options);
  ASSERT_TRUE(dispatcher.ok()) << dispatcher.status();
  auto table = PlacementTable::Create(&device, *Placement::Even(options.placement));
  ASSERT_TRUE(table.ok()) << table.status();
  DispatchedRows rows =
      (*dispatcher)
          ->Dispatch(x.view(),
                     {.ids = ids.view(), .weights = weights.view(), .placement = &*table});
  TestTensor<float> y(&device, DType::kF32, {rows.max_rows, kHidden});
  RunExperts(rows.x, rows.row_index, rows.offsets, y.view());
  TestTensor<float> out(&device, DType::kF32, {kTokens, kHidden});
  (*dispatcher)->Combine(std::move(rows.handle), y.view(), out.view());
  ASSERT_TRUE(device.Synchronize().ok()) << device.Synchronize();
  EXPECT_EQ(out.Get(), local.Get());
}

INSTANTIATE_TEST_SUITE_P(Backends, LocalPathTest, testing::ValuesIn(LinkedBackends()),
                         [](const auto& tested) { return std::string(tested.param); });

}  // namespace
}  // namespace tessera
