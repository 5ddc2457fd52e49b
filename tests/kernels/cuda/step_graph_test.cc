// Captured operations: they run when they are enqueued, give the bits that the operations give, and
// hold the memory that they held.
#include "kernels/cuda/step_graph.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <numeric>
#include <optional>
#include <vector>

#include "kernels/cuda/cuda_device.h"
#include "kernels/cuda/cuda_ops.h"
#include "kernels/cuda/fake/emulated_gpus.h"
#include "tests/kernels/op_test.h"

namespace tessera::test {
namespace {

using testing::HasSubstr;

class StepGraphTest : public testing::TestWithParam<DType> {
 protected:
  Device& device() { return ops_->device(); }
  std::unique_ptr<StepGraph> Capture(absl::FunctionRef<void()> enqueue) {
    absl::StatusOr<std::unique_ptr<StepGraph>> graph = ops_->Capture(enqueue);
    EXPECT_TRUE(graph.ok()) << graph.status();
    return graph.ok() ? *std::move(graph) : nullptr;
  }

  std::unique_ptr<Ops> ops_ = *CreateEmulatedCudaOps({});
};
INSTANTIATE_TEST_SUITE_P(Types, StepGraphTest, testing::Values(DType::kF32, DType::kBF16),
                         [](const auto& tested) { return std::string(DTypeName(tested.param)); });

// A norm and a product of its result, as a layer has them.
struct Block {
  static constexpr int64_t kRows = 3;
  static constexpr int64_t kHidden = 40;
  static constexpr int64_t kOut = 24;

  Block(Ops& of, DType dtype, Random& random)
      : ops(of),
        x(of.device(), dtype, {kRows, kHidden}, RoundTo(dtype, random.Normals(kRows * kHidden))),
        scales(of.device(), DType::kF32, {kHidden}, random.Normals(kHidden)),
        normed(of.device(), dtype, {kRows, kHidden}),
        out(of.device(), dtype, {kRows, kOut}) {
    const std::vector<float> values = random.Normals(kOut * kHidden);
    weight = *of.PrepareWeight(
        {.parts = {{values.data(), DType::kF32, kOut, kHidden, kHidden}}, .dtype = dtype});
  }
  void Enqueue() const {
    ops.RmsNorm({.x = x, .weight = scales, .out = normed});
    ops.Gemm({.x = normed, .weight = weight.get(), .out = out});
  }
  void Copy(const TestTensor& from, const TestTensor& to) const {
    const TestTensor rows = TestTensor::Ints(ops.device(), {kRows}, {0, 1, 2});
    ops.GatherRows({.x = from, .rows = rows, .out = to});
    EXPECT_TRUE(ops.device().Synchronize().ok());
  }

  Ops& ops;
  TestTensor x, scales, normed, out;
  std::unique_ptr<Weight> weight;
};

TEST_P(StepGraphTest, GivesTheBitsOfItsOperations) {
  ForSeeds(2, [&](Random& random) {
    const Block block(*ops_, GetParam(), random);
    const std::vector<float> untouched(Block::kRows * Block::kOut, 7.0F);
    const TestTensor sevens(device(), GetParam(), {Block::kRows, Block::kOut}, untouched);
    block.Copy(sevens, block.out);
    const std::unique_ptr<StepGraph> graph = Capture([&] { block.Enqueue(); });
    ASSERT_NE(graph, nullptr);
    EXPECT_EQ(block.out.Floats(), untouched) << "a capture has run something";
    for (int step = 0; step < 2; ++step) {
      // It computes with what is there when it runs.
      const TestTensor fresh(device(), GetParam(), {Block::kRows, Block::kHidden},
                             random.Normals(Block::kRows * Block::kHidden));
      block.Copy(fresh, block.x);
      block.Enqueue();
      const std::vector<float> expected = block.out.Floats();
      block.Copy(sevens, block.out);
      graph->Enqueue();
      EXPECT_EQ(block.out.Floats(), expected) << "step " << step;
    }
  });
}

// Attention over some spans of positions, which blocks hand to each other through scratch memory.
struct LongContext {
  static constexpr int32_t kHeads = 2;
  static constexpr int32_t kHeadDim = 32;
  static constexpr int32_t kBlockSize = 16;

  static std::vector<int32_t> Descending(int32_t count) {
    std::vector<int32_t> numbers(count);
    std::iota(numbers.rbegin(), numbers.rend(), 0);
    return numbers;
  }
  LongContext(Ops& of, DType dtype, int32_t positions, Random& random)
      : ops(of),
        blocks((positions + kBlockSize - 1) / kBlockSize),
        q(of.device(), dtype, {1, kHeads * kHeadDim},
          RoundTo(dtype, random.Normals(kHeads * kHeadDim))),
        k(of.device(), dtype, {blocks, 1, kBlockSize, kHeadDim},
          RoundTo(dtype, random.Normals(int64_t{blocks} * kBlockSize * kHeadDim))),
        tables(TestTensor::Ints(of.device(), {1, blocks}, Descending(blocks))),
        cu_seqlens(TestTensor::Ints(of.device(), {2}, {0, 1})),
        context_lens(TestTensor::Ints(of.device(), {1}, {positions})),
        out(of.device(), dtype, {1, kHeads * kHeadDim}) {}
  void Enqueue() const {
    ops.PagedAttention({.q = q,
                        .kv = {.k = k, .v = k},
                        .block_tables = tables,
                        .cu_seqlens = cu_seqlens,
                        .context_lens = context_lens,
                        .num_q_heads = kHeads,
                        .num_kv_heads = 1,
                        .out = out});
  }

  Ops& ops;
  const int32_t blocks;
  TestTensor q, k, tables, cu_seqlens, context_lens, out;
};

// Scratch memory that grows for another shape leaves a graph what it holds.
TEST_P(StepGraphTest, KeepsItsScratchMemory) {
  ForSeeds(1, [&](Random& random) {
    const LongContext small(*ops_, GetParam(), 300, random);
    const LongContext large(*ops_, GetParam(), 1100, random);
    const std::unique_ptr<StepGraph> graph = Capture([&] { small.Enqueue(); });
    ASSERT_NE(graph, nullptr);
    const std::unique_ptr<StepGraph> larger = Capture([&] { large.Enqueue(); });
    ASSERT_NE(larger, nullptr);
    for (const auto& [captured, operation] :
         {std::pair(graph.get(), &small), std::pair(larger.get(), &large)}) {
      captured->Enqueue();
      const std::vector<float> bits = operation->out.Floats();
      operation->Enqueue();
      EXPECT_EQ(operation->out.Floats(), bits);
    }
    EXPECT_EQ(simt::fake::AnyReport(), "");
  });
}

// What is freed or moved under a graph does not stay unseen: the GPU fails with the first step.
TEST_P(StepGraphTest, FreedMemoryUnderAGraphIsReported) {
  Random random(1);
  std::optional<Block> block(std::in_place, *ops_, GetParam(), random);
  const std::unique_ptr<StepGraph> graph = Capture([&] { block->Enqueue(); });
  ASSERT_NE(graph, nullptr);
  graph->Enqueue();
  EXPECT_TRUE(device().Synchronize().ok());
  block.reset();
  graph->Enqueue();
  const absl::Status status = device().Synchronize();
  EXPECT_EQ(status.code(), absl::StatusCode::kInternal);
  EXPECT_THAT(std::string(status.message()), HasSubstr("a step's graph"));
  EXPECT_THAT(simt::fake::AnyReport(), HasSubstr("outside"));
  simt::fake::Reset();
}

// An operation that cannot be launched ends the capture and nothing else.
TEST_P(StepGraphTest, ACaptureThatFailsBreaksNothing) {
  Random random(1);
  const Block block(*ops_, GetParam(), random);
  auto& gpu = static_cast<cuda::CudaDevice&>(device());
  const absl::StatusOr<std::unique_ptr<StepGraph>> graph = cuda::CudaStepGraph::Capture(gpu, [&] {
    block.Enqueue();
    gpu.Launch("Refused", [] { return cudaErrorInvalidConfiguration; });
    gpu.Launch("Later", [] { return cudaErrorInvalidValue; });
  });
  EXPECT_EQ(graph.status().code(), absl::StatusCode::kInternal);
  EXPECT_THAT(std::string(graph.status().message()), HasSubstr("capturing Refused"));
  block.Enqueue();
  EXPECT_TRUE(device().Synchronize().ok());
  EXPECT_NE(Capture([&] { block.Enqueue(); }), nullptr);
}

// Only a device that works captures.
TEST_P(StepGraphTest, AFailedDeviceCapturesNothing) {
  auto& gpu = static_cast<cuda::CudaDevice&>(device());
  gpu.Fail(absl::UnavailableError("a rank is gone"));
  bool called = false;
  const auto graph = ops_->Capture([&] { called = true; });
  EXPECT_EQ(graph.status(), absl::UnavailableError("a rank is gone"));
  EXPECT_FALSE(called);
}

}  // namespace
}  // namespace tessera::test
