// What the operations of a decoder layer move; shapes are a decode step's and a prompt chunk's, cut
// down. What exceeds 1 is said where the limit is set.
#include "tests/kernels/cuda/traffic.h"

#include "tests/kernels/sample_rows.h"

namespace tessera::test {
namespace {

TESSERA_TRAFFIC_SUITE(TrafficTest);

// Each row is a block of its own and reads the weight, which the cache of a GPU holds.
TEST_P(TrafficTest, RmsNorm) {
  constexpr int64_t kRows = 8;
  constexpr int64_t kHidden = 1024;
  const TestTensor x = Random({kRows, kHidden});
  const TestTensor add = Random({kRows, kHidden});
  const TestTensor weight = Floats(kHidden);
  const TestTensor out(device(), act(), {kRows, kHidden});
  const int64_t rows = kRows * kHidden * size();
  ExpectTraffic(4 * rows + kHidden * 4, {122, 142},
                [&] { ops().RmsNorm({.x = x, .add = add, .weight = weight, .out = out}); });
}

TEST_P(TrafficTest, SiluAndMul) {
  constexpr int64_t kRows = 8;
  constexpr int64_t kColumns = 768;
  const TestTensor x = Random({kRows, 2 * kColumns});
  const TestTensor out(device(), act(), {kRows, kColumns});
  const int64_t bytes = kRows * kColumns * size();
  ExpectTraffic(3 * bytes, {100, 100}, [&] { ops().SiluAndMul({.x = x, .out = out}); });
}

// The inner dimension is cut into segments whose sums are written and read once more.
TEST_P(TrafficTest, GemmOfADecodeStep) {
  constexpr int64_t kRows = 4;
  constexpr int64_t kOutputs = 256;
  constexpr int64_t kInner = 1024;
  const TestTensor x = Random({kRows, kInner});
  const std::unique_ptr<Weight> weight = RandomWeight(kOutputs, kInner);
  const TestTensor out(device(), act(), {kRows, kOutputs});
  ExpectTraffic(((kRows + kOutputs) * kInner + kRows * kOutputs) * size(), {105, 108},
                [&] { ops().Gemm({.x = x, .weight = weight.get(), .bias = {}, .out = out}); });
}

// Tiles of the product by plain multiplication are smaller: inputs are read several times. Those of
// the tensor cores share the weights by multicast, which counts once.
TEST_P(TrafficTest, GemmOfAPromptChunk) {
  constexpr int64_t kRows = 256;
  constexpr int64_t kOutputs = 128;
  constexpr int64_t kInner = 256;
  const TestTensor x = Random({kRows, kInner});
  const std::unique_ptr<Weight> weight = RandomWeight(kOutputs, kInner);
  const TestTensor out(device(), act(), {kRows, kOutputs});
  ExpectTraffic(((kRows + kOutputs) * kInner + kRows * kOutputs) * size(), {225, 100},
                [&] { ops().Gemm({.x = x, .weight = weight.get(), .bias = {}, .out = out}); });
}

// Only experts that have rows are read.
TEST_P(TrafficTest, ExpertsOfADecodeStep) {
  constexpr int64_t kExperts = 6;
  constexpr int64_t kOutputs = 128;
  constexpr int64_t kInner = 512;
  std::vector<std::unique_ptr<Weight>> weights;
  for (int64_t e = 0; e < kExperts; ++e) weights.push_back(RandomWeight(kOutputs, kInner));
  const std::unique_ptr<ExpertTable> table = Table(weights);
  const std::vector<int32_t> offsets{0, 2, 2, 3, 3, 3, 4};  // three of them have rows
  const TestTensor x = Random({4, kInner});
  const TestTensor offsets_tensor = TestTensor::Ints(device(), {kExperts + 1}, offsets);
  const TestTensor index = TestTensor::Ints(device(), {4}, {0, 3, 1, 2});
  const TestTensor out(device(), act(), {4, kOutputs});
  ExpectTraffic(((3 * kOutputs + 4) * kInner + 4 * kOutputs) * size(), {103, 107}, [&] {
    ops().GroupedGemm({.x = x,
                       .row_index = index,
                       .offsets = offsets_tensor,
                       .experts = table.get(),
                       .out = out});
  });
}

// One sequence's next token: keys and values are read once for all heads of a group; the parts of
// the context are merged. Every thread that copies looks up its block; pages that TMA loads are
// looked up once per warp.
TEST_P(TrafficTest, AttentionOfADecodeStep) {
  constexpr int64_t kContext = 512;
  constexpr int64_t kBlock = 16;
  constexpr int64_t kBlocks = kContext / kBlock;
  constexpr int64_t kHeads = 2;
  constexpr int64_t kGroup = 8;
  constexpr int64_t kDim = 64;
  const TestTensor q = Random({1, kHeads * kGroup * kDim});
  const TestTensor k = Random({kBlocks, kHeads, kBlock, kDim});
  const TestTensor v = Random({kBlocks, kHeads, kBlock, kDim});
  const TestTensor tables = Ascending({1, kBlocks});
  const TestTensor cu_seqlens = TestTensor::Ints(device(), {2}, {0, 1});
  const TestTensor context = TestTensor::Ints(device(), {1}, {kContext});
  const TestTensor out(device(), act(), {1, kHeads * kGroup * kDim});
  const int64_t row = kHeads * kGroup * kDim * size();
  ExpectTraffic(2 * kContext * kHeads * kDim * size() + 2 * row, {119, 115}, [&] {
    ops().PagedAttention({.q = q,
                          .kv = {k, v},
                          .block_tables = tables,
                          .cu_seqlens = cu_seqlens,
                          .context_lens = context,
                          .num_q_heads = kHeads * kGroup,
                          .num_kv_heads = kHeads,
                          .scale = 0.125F,
                          .out = out});
  });
}

constexpr int64_t kTokens = 16;
// Every thread that copies looks up its row.
TEST_P(TrafficTest, Embed) {
  constexpr int64_t kHidden = 512;
  const std::unique_ptr<Weight> table = RandomWeight(kTokens, kHidden);
  const TestTensor ids = Ascending({kTokens});
  const TestTensor out(device(), act(), {kTokens, kHidden});
  ExpectTraffic(2 * kTokens * kHidden * size() + kTokens * 4, {107, 113}, [&] {
    ops().Embed({.ids = ids,
                 .source = {},
                 .drawn = {},
                 .table = table.get(),
                 .vocab_begin = 0,
                 .out = out});
  });
}

TEST_P(TrafficTest, GatherRows) {
  constexpr int64_t kHidden = 512;
  const TestTensor x = Random({kTokens, kHidden});
  const TestTensor rows = Ascending({kTokens});
  const TestTensor out(device(), act(), {kTokens, kHidden});
  ExpectTraffic(2 * kTokens * kHidden * size() + kTokens * 4, {113, 113},
                [&] { ops().GatherRows({.x = x, .rows = rows, .out = out}); });
}

// Every head reads its norm, its angles and where it belongs, which caches hold.
TEST_P(TrafficTest, QkNormRopeStoreKv) {
  constexpr int64_t kQ = 8;
  constexpr int64_t kKv = 2;
  constexpr int64_t kDim = 128;
  constexpr int64_t kWidth = (kQ + 2 * kKv) * kDim;
  const TestTensor qkv = Random({kTokens, kWidth});
  const TestTensor norm = Floats(kDim);
  const TestTensor table(device(), DType::kF32, {kTokens, kDim}, random_.Normals(kTokens * kDim));
  const TestTensor slots = Ascending({kTokens});
  const TestTensor k(device(), act(), {1, kKv, kTokens, kDim});
  const TestTensor v(device(), act(), {1, kKv, kTokens, kDim});
  ExpectTraffic(2 * kTokens * kWidth * size() + (kTokens + 2) * kDim * 4 + 2 * kTokens * 4,
                {231, 313}, [&] {
                  ops().QkNormRopeStoreKv({.qkv = qkv,
                                           .q_norm = norm,
                                           .k_norm = norm,
                                           .cos_sin = table,
                                           .positions = slots,
                                           .slot_mapping = slots,
                                           .kv = {k, v},
                                           .num_q_heads = kQ,
                                           .num_kv_heads = kKv});
                });
}

// A warp reads its row once per choice, from the cache of its multiprocessor but the first time.
TEST_P(TrafficTest, RouteTopK) {
  constexpr int64_t kExperts = 128;
  constexpr int64_t kTopK = 8;
  const TestTensor logits(device(), DType::kF32, {kTokens, kExperts},
                          random_.Normals(kTokens * kExperts));
  const TestTensor ids(device(), DType::kI32, {kTokens, kTopK});
  const TestTensor weights(device(), DType::kF32, {kTokens, kTopK});
  ExpectTraffic(kTokens * (kExperts + 2 * kTopK) * 4, {1023, 1023}, [&] {
    ops().RouteTopK({.logits = logits, .num_rows = {}, .ids = ids, .weights = weights});
  });
}

// Every thread reads the positions and weights of its token.
TEST_P(TrafficTest, MoeFinalize) {
  constexpr int64_t kHidden = 512;
  constexpr int64_t kTopK = 4;
  const TestTensor y = Random({kTokens * kTopK, kHidden});
  const TestTensor positions = Ascending({kTokens, kTopK});
  const TestTensor weights(device(), DType::kF32, {kTokens, kTopK},
                           random_.Normals(kTokens * kTopK));
  const TestTensor out(device(), act(), {kTokens, kHidden});
  ExpectTraffic(
      kTokens * (kTopK + 1) * kHidden * size() + 2 * kTokens * kTopK * 4, {120, 140},
      [&] { ops().MoeFinalize({.y = y, .positions = positions, .weights = weights, .out = out}); });
}

// As often as kernels/cuda/kernels/sample.h says.
TEST_P(TrafficTest, Sample) {
  constexpr int64_t kVocab = 8192;
  SampleRowCase row = Row(random_.Normals(kVocab));
  row.temperature = 0;
  ExpectTraffic(kVocab * 4, {116, 116}, [&] { Sample(ops(), {row}); });
  row.temperature = 1;
  ExpectTraffic(kVocab * 4, {229, 229}, [&] { Sample(ops(), {row}); });
  row.top_k = 20;
  ExpectTraffic(kVocab * 4, {329, 329}, [&] { Sample(ops(), {row}); });
}

}  // namespace
}  // namespace tessera::test
