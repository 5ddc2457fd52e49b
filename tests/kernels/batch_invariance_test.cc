// An output row depends on its own inputs only: alone, in a batch, elsewhere in it, in another
// chunking or other blocks, it must come out the same bit for bit.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "tests/kernels/op_test.h"

namespace tessera::test {
namespace {

class BatchInvarianceTest : public OpTest {
 protected:
  // Rows of a [*, width] matrix.
  using Matrix = std::vector<std::vector<float>>;

  Matrix RandomRows(Random& random, int64_t rows, int64_t width, float scale = 1.0F) {
    Matrix matrix;
    for (int64_t i = 0; i < rows; ++i) matrix.push_back(Activations(random, width, scale));
    return matrix;
  }
  static std::vector<float> Flat(const Matrix& matrix) {
    std::vector<float> flat;
    for (const std::vector<float>& row : matrix) flat.insert(flat.end(), row.begin(), row.end());
    return flat;
  }
  static Matrix Split(const std::vector<float>& flat, int64_t rows) {
    Matrix matrix;
    const int64_t width = rows == 0 ? 0 : static_cast<int64_t>(flat.size()) / rows;
    for (int64_t i = 0; i < rows; ++i) {
      matrix.emplace_back(flat.begin() + i * width, flat.begin() + (i + 1) * width);
    }
    return matrix;
  }

  // `op` maps rows to rows. Compares the full batch with single rows and shuffled sub-batches.
  void ExpectRowsIndependent(Random& random, const Matrix& rows,
                             const std::function<Matrix(const Matrix&)>& op) {
    const Matrix whole = op(rows);
    ASSERT_EQ(whole.size(), rows.size());
    for (size_t size : {size_t{1}, size_t{2}, size_t{5}, size_t{16}, rows.size()}) {
      std::vector<size_t> order(rows.size());
      std::iota(order.begin(), order.end(), 0);
      std::shuffle(order.begin(), order.end(), random.engine());
      order.resize(std::min(size, order.size()));
      Matrix some;
      for (size_t i : order) some.push_back(rows[i]);
      const Matrix result = op(some);
      for (size_t i = 0; i < order.size(); ++i) {
        ASSERT_EQ(result[i], whole[order[i]])
            << "row " << order[i] << " of " << rows.size() << " as row " << i << " of " << size;
      }
    }
  }
};
TESSERA_OP_TEST_SUITE(BatchInvarianceTest);

TEST_P(BatchInvarianceTest, Gemm) {
  ForSeeds(8, [&](Random& random) {
    const int64_t n = random.OneOf({1, 16, 33, 64, 100});
    const int64_t k = random.OneOf({8, 100, 256, 1000, 1024});
    const std::unique_ptr<Weight> weight = Prepare(Weights(random, n * k, 0.1F), n, k);
    ExpectRowsIndependent(random, RandomRows(random, 67, k), [&](const Matrix& rows) {
      const auto m = static_cast<int64_t>(rows.size());
      const TestTensor x(device(), act(), {m, k}, Flat(rows), random.OneOf({0, 8}));
      const TestTensor out(device(), act(), {m, n});
      ops().Gemm({.x = x, .weight = weight.get(), .bias = {}, .out = out});
      return Split(out.Floats(), m);
    });
  });
}

TEST_P(BatchInvarianceTest, GroupedGemm) {
  ForSeeds(6, [&](Random& random) {
    const int64_t n = random.OneOf({16, 40, 64});
    const int64_t k = random.OneOf({16, 100, 512});
    constexpr int64_t kExperts = 3;
    std::vector<std::unique_ptr<Weight>> owned;
    for (int64_t e = 0; e < kExperts; ++e) {
      owned.push_back(Prepare(Weights(random, n * k, 0.1F), n, k));
    }
    const std::unique_ptr<ExpertTable> experts = Table(owned);
    // All rows go to the middle expert; its neighbours get copies of the first row.
    ExpectRowsIndependent(random, RandomRows(random, 40, k), [&](const Matrix& rows) {
      const auto m = static_cast<int32_t>(rows.size());
      const auto before = static_cast<int32_t>(random.Int(0, 5));
      const auto after = static_cast<int32_t>(random.Int(0, 5));
      std::vector<int32_t> index(before, 0);
      for (int32_t i = 0; i < m; ++i) index.push_back(i);
      index.resize(before + m + after, 0);
      const auto total = static_cast<int64_t>(index.size());
      const TestTensor x(device(), act(), {m, k}, Flat(rows));
      const TestTensor index_tensor = TestTensor::Ints(device(), {total}, index);
      const TestTensor offsets =
          TestTensor::Ints(device(), {kExperts + 1}, {0, before, before + m, before + m + after});
      const TestTensor out(device(), act(), {total, n});
      ops().GroupedGemm({.x = x,
                         .row_index = index_tensor,
                         .offsets = offsets,
                         .experts = experts.get(),
                         .out = out});
      const Matrix all = Split(out.Floats(), total);
      return Matrix(all.begin() + before, all.begin() + before + m);
    });
  });
}

TEST_P(BatchInvarianceTest, RmsNorm) {
  ForSeeds(6, [&](Random& random) {
    const int64_t hidden = random.OneOf({1, 31, 64, 1000});
    const std::vector<float> weight = random.Normals(hidden);
    const TestTensor weight_tensor(device(), DType::kF32, {hidden}, weight);
    ExpectRowsIndependent(random, RandomRows(random, 20, hidden), [&](const Matrix& rows) {
      const auto m = static_cast<int64_t>(rows.size());
      const TestTensor x(device(), act(), {m, hidden}, Flat(rows));
      const TestTensor add(device(), act(), {m, hidden}, Flat(rows));
      const TestTensor out(device(), act(), {m, hidden});
      ops().RmsNorm({.x = x, .add = add, .weight = weight_tensor, .eps = 1e-6F, .out = out});
      return Split(out.Floats(), m);
    });
  });
}

TEST_P(BatchInvarianceTest, SiluAndMul) {
  ForSeeds(4, [&](Random& random) {
    const int64_t width = random.OneOf({5, 64, 300});
    ExpectRowsIndependent(random, RandomRows(random, 20, 2 * width), [&](const Matrix& rows) {
      const auto m = static_cast<int64_t>(rows.size());
      const TestTensor x(device(), act(), {m, 2 * width}, Flat(rows));
      const TestTensor out(device(), act(), {m, width});
      ops().SiluAndMul({.x = x, .num_rows = {}, .out = out});
      return Split(out.Floats(), m);
    });
  });
}

TEST_P(BatchInvarianceTest, RouteTopK) {
  ForSeeds(4, [&](Random& random) {
    const int64_t experts = random.OneOf({8, 60, 128});
    Matrix logits;
    for (int i = 0; i < 20; ++i) logits.push_back(random.Normals(experts, 2.0F));
    ExpectRowsIndependent(random, logits, [&](const Matrix& rows) {
      const auto m = static_cast<int64_t>(rows.size());
      const TestTensor logits_tensor(device(), DType::kF32, {m, experts}, Flat(rows));
      const TestTensor ids(device(), DType::kI32, {m, 4});
      const TestTensor weights(device(), DType::kF32, {m, 4});
      ops().RouteTopK({.logits = logits_tensor, .normalize = true, .ids = ids, .weights = weights});
      return Split(weights.Floats(), m);
    });
  });
}

// One sequence of K and V by position, and the queries of all its positions.
struct Sequence {
  std::vector<float> q, k, v;  // [context, heads * head_dim]
  int64_t context;
};

struct AttentionShape {
  int64_t nk, group, d, block_size;
  int32_t window;
};

class AttentionInvarianceTest : public OpTest {
 protected:
  // Attention of positions [begin, end) of `sequence`, beside `neighbours` one-token sequences,
  // with the blocks at random places.
  std::vector<float> Run(Random& random, const AttentionShape& shape, const Sequence& sequence,
                         int64_t begin, int64_t end);
};
TESSERA_OP_TEST_SUITE(AttentionInvarianceTest);

std::vector<float> AttentionInvarianceTest::Run(Random& random, const AttentionShape& shape,
                                                const Sequence& sequence, int64_t begin,
                                                int64_t end) {
  const auto [nk, group, d, block_size, window] = shape;
  const int64_t width = nk * group * d;
  const int64_t before = random.Int(0, 3);
  const int64_t after = random.Int(0, 3);
  const int64_t needed = (end + block_size - 1) / block_size;
  const int64_t num_blocks = needed + 3;
  std::vector<int32_t> blocks(num_blocks);
  std::iota(blocks.begin(), blocks.end(), 0);
  std::shuffle(blocks.begin(), blocks.end(), random.engine());
  // Unused slots hold noise, not NaN: the neighbours read block blocks[needed].
  std::vector<float> k = RoundTo(DType::kBF16, random.Normals(num_blocks * nk * block_size * d));
  std::vector<float> v = k;
  for (int64_t j = 0; j < end; ++j) {
    for (int64_t h = 0; h < nk; ++h) {
      const int64_t to = ((blocks[j / block_size] * nk + h) * block_size + j % block_size) * d;
      std::copy_n(sequence.k.begin() + (j * nk + h) * d, d, k.begin() + to);
      std::copy_n(sequence.v.begin() + (j * nk + h) * d, d, v.begin() + to);
    }
  }
  const int64_t sequences = before + 1 + after;
  std::vector<int32_t> tables(sequences * needed, blocks[needed]);
  std::copy_n(blocks.begin(), needed, tables.begin() + before * needed);
  std::vector<int32_t> cu_seqlens{0};
  std::vector<int32_t> contexts(sequences, 1);
  contexts[before] = static_cast<int32_t>(end);
  for (int64_t s = 0; s < sequences; ++s) {
    cu_seqlens.push_back(cu_seqlens.back() + static_cast<int32_t>(s == before ? end - begin : 1));
  }
  const int64_t tokens = cu_seqlens.back();
  std::vector<float> q = Activations(random, tokens * width);
  std::copy_n(sequence.q.begin() + begin * width, (end - begin) * width,
              q.begin() + before * width);
  const TestTensor q_tensor(device(), act(), {tokens, width}, q);
  const TestTensor k_tensor(device(), DType::kBF16, {num_blocks, nk, block_size, d}, k);
  const TestTensor v_tensor(device(), DType::kBF16, {num_blocks, nk, block_size, d}, v);
  const TestTensor tables_tensor = TestTensor::Ints(device(), {sequences, needed}, tables);
  const TestTensor cu_tensor = TestTensor::Ints(device(), {sequences + 1}, cu_seqlens);
  const TestTensor contexts_tensor = TestTensor::Ints(device(), {sequences}, contexts);
  const TestTensor out(device(), act(), {tokens, width});
  ops().PagedAttention({.q = q_tensor,
                        .kv = {k_tensor, v_tensor},
                        .block_tables = tables_tensor,
                        .cu_seqlens = cu_tensor,
                        .context_lens = contexts_tensor,
                        .num_q_heads = static_cast<int32_t>(nk * group),
                        .num_kv_heads = static_cast<int32_t>(nk),
                        .window = window,
                        .scale = 0.3F,
                        .out = out});
  const std::vector<float> all = out.Floats();
  return {all.begin() + before * width, all.begin() + (before + end - begin) * width};
}

TEST_P(AttentionInvarianceTest, ChunksBlocksAndNeighboursChangeNothing) {
  ForSeeds(8, [&](Random& random) {
    const AttentionShape shape{random.OneOf({1, 2}), random.OneOf({1, 2, 4}),
                               random.OneOf({16, 64, 128}), random.OneOf({4, 16}),
                               static_cast<int32_t>(random.OneOf({0, 0, 20}))};
    const int64_t context = random.OneOf({40, 133, 260});
    const int64_t width = shape.nk * shape.group * shape.d;
    const int64_t kv_width = shape.nk * shape.d;
    const Sequence sequence{Activations(random, context * width),
                            RoundTo(DType::kBF16, random.Normals(context * kv_width)),
                            RoundTo(DType::kBF16, random.Normals(context * kv_width)), context};
    const std::vector<float> whole = Run(random, shape, sequence, 0, context);
    for (int trial = 0; trial < 12; ++trial) {
      const int64_t begin = random.Int(0, context - 1);
      const int64_t end =
          random.Chance(0.5) ? begin + 1 : random.Int(begin + 1, std::min(context, begin + 40));
      const std::vector<float> part = Run(random, shape, sequence, begin, end);
      const std::vector<float> expected(whole.begin() + begin * width, whole.begin() + end * width);
      ASSERT_EQ(part, expected) << "positions " << begin << " to " << end << " of " << context;
    }
  });
}

}  // namespace
}  // namespace tessera::test
