// One rank through the dispatcher against the operations of a single rank, on every backend.
#include <algorithm>
#include <random>
#include <tuple>

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

class LocalPathTest : public testing::TestWithParam<std::tuple<std::string_view, DType>> {
 protected:
  void SetUp() override {
    auto ops = CreateOps({.backend = std::get<0>(GetParam())});
    ASSERT_TRUE(ops.ok()) << ops.status();
    ops_ = *std::move(ops);
    act_ = ops_->ActivationDType(std::get<1>(GetParam()));
    gate_up_ = Prepare(2 * kWidth, kHidden);
    down_ = Prepare(kHidden, kWidth);
  }

  std::vector<float> Random(int64_t count) {
    std::vector<float> values(count);
    for (float& value : values) value = static_cast<float>(random_() % 2001) / 1000.0F - 1.0F;
    return values;
  }

  std::unique_ptr<ExpertTable> Prepare(int64_t rows, int64_t cols) {
    auto table = ops_->CreateExpertTable({.num_slots = kExperts, .rows = rows, .cols = cols});
    EXPECT_TRUE(table.ok()) << table.status();
    for (int32_t e = 0; e < kExperts; ++e) (*table)->Set(e, PrepareOne(rows, cols));
    return *std::move(table);
  }

  const Weight& PrepareOne(int64_t rows, int64_t cols) {
    const std::vector<float> values = Random(rows * cols);
    auto weight = ops_->PrepareWeight({.parts = {{.data = values.data(),
                                                  .dtype = DType::kF32,
                                                  .rows = rows,
                                                  .cols = cols,
                                                  .row_stride = cols}},
                                       .dtype = std::get<1>(GetParam())});
    EXPECT_TRUE(weight.ok()) << weight.status();
    owned_.push_back(*std::move(weight));
    return *owned_.back();
  }

  // T: the activations' type, bfloat16 as its bits.
  template <typename T>
  void ExpectSameBits();

  template <typename T>
  void RunExperts(ConstTensorView x, ConstTensorView row_index, ConstTensorView offsets,
                  TensorView y) {
    const int64_t rows = y.dim(0);
    TestTensor<T> gate_up(&ops_->device(), act_, {rows, 2 * kWidth});
    TestTensor<T> activation(&ops_->device(), act_, {rows, kWidth});
    ops_->GroupedGemm({.x = x,
                       .row_index = row_index,
                       .offsets = offsets,
                       .experts = gate_up_.get(),
                       .out = gate_up.view()});
    ops_->SiluAndMul(
        {.x = gate_up.view(), .num_rows = offsets.Rows(kExperts, 1), .out = activation.view()});
    ops_->GroupedGemm(
        {.x = activation.view(), .offsets = offsets, .experts = down_.get(), .out = y});
    EXPECT_TRUE(ops_->device().Synchronize().ok()) << ops_->device().Synchronize();
  }

  std::mt19937 random_{11};
  std::unique_ptr<Ops> ops_;
  DType act_ = DType::kF32;
  std::vector<std::unique_ptr<Weight>> owned_;
  std::unique_ptr<ExpertTable> gate_up_;
  std::unique_ptr<ExpertTable> down_;
};

std::vector<float> As(const std::vector<float>& values, float /*type*/) { return values; }
std::vector<uint16_t> As(const std::vector<float>& values, uint16_t /*type*/) {
  std::vector<uint16_t> bits(values.size());
  std::transform(values.begin(), values.end(), bits.begin(), FloatToBF16);
  return bits;
}

template <typename T>
void LocalPathTest::ExpectSameBits() {
  Device& device = ops_->device();
  TestTensor<T> x(&device, act_, {kTokens, kHidden}, As(Random(kTokens * kHidden), T{}));
  TestTensor<float> logits(&device, DType::kF32, {kTokens, kExperts}, Random(kTokens * kExperts));
  TestTensor<int32_t> ids(&device, DType::kI32, {kTokens, kTopK});
  TestTensor<float> weights(&device, DType::kF32, {kTokens, kTopK});
  ops_->RouteTopK({.logits = logits.view(), .ids = ids.view(), .weights = weights.view()});

  TestTensor<int32_t> offsets(&device, DType::kI32, {kExperts + 1});
  TestTensor<int32_t> row_token(&device, DType::kI32, {kTokens * kTopK});
  TestTensor<int32_t> positions(&device, DType::kI32, {kTokens, kTopK});
  TestTensor<T> local_y(&device, act_, {kTokens * kTopK, kHidden});
  TestTensor<T> local(&device, act_, {kTokens, kHidden});
  ops_->MoePermute({.ids = ids.view(),
                    .num_experts = kExperts,
                    .offsets = offsets.view(),
                    .row_token = row_token.view(),
                    .positions = positions.view()});
  RunExperts<T>(x.view(), row_token.view(), offsets.view(), local_y.view());
  ops_->MoeFinalize({.y = local_y.view(),
                     .positions = positions.view(),
                     .weights = weights.view(),
                     .out = local.view()});

  const auto communicator = JoinInprocGroup(CreateInprocGroup(1), 0, &device);
  const DispatcherOptions options{
      .max_tokens = kTokens + 5,
      .hidden = kHidden,
      .dtype = act_,
      .top_k = kTopK,
      .placement = {.num_experts = kExperts, .num_ranks = 1, .slots_per_rank = kExperts},
      .combine = CombineMode::kExact};
  auto dispatcher = ExpertDispatcher::Create(ops_.get(), communicator.get(), options);
  ASSERT_TRUE(dispatcher.ok()) << dispatcher.status();
  auto table = PlacementTable::Create(&device, *Placement::Even(options.placement));
  ASSERT_TRUE(table.ok()) << table.status();
  DispatchedRows rows =
      (*dispatcher)
          ->Dispatch(x.view(),
                     {.ids = ids.view(), .weights = weights.view(), .placement = &*table});
  TestTensor<T> y(&device, act_, {rows.max_rows, kHidden});
  RunExperts<T>(rows.x, rows.row_index, rows.offsets, y.view());
  TestTensor<T> out(&device, act_, {kTokens, kHidden});
  (*dispatcher)->Combine(std::move(rows.handle), y.view(), out.view());
  ASSERT_TRUE(device.Synchronize().ok()) << device.Synchronize();
  EXPECT_EQ(out.Get(), local.Get());
}

TEST_P(LocalPathTest, OneRankHasTheSameBits) {
  if (act_ == DType::kF32) {
    ExpectSameBits<float>();
  } else {
    ExpectSameBits<uint16_t>();
  }
}

INSTANTIATE_TEST_SUITE_P(Backends, LocalPathTest,
                         testing::Combine(testing::ValuesIn(LinkedBackends()),
                                          testing::Values(DType::kF32, DType::kBF16)),
                         [](const auto& tested) {
                           std::string name(std::get<0>(tested.param));
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name + "_" + std::string(DTypeName(std::get<1>(tested.param)));
                         });

}  // namespace
}  // namespace tessera
