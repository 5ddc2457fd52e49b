#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "tests/kernels/op_test.h"

namespace tessera::test {
namespace {

// Over bfloat16 keys and values, queries and probabilities may be rounded to bfloat16 as well.
constexpr Tolerance kAttention{.f32 = 1e-5, .bf16 = 2e-2};
constexpr double kRopeTolerance = 1e-5;

class AttentionTest : public OpTest {};
TESSERA_OP_TEST_SUITE(AttentionTest);

// Sequences whose blocks lie anywhere in the cache.
struct PagedBatch {
  int64_t num_kv_heads = 1;
  int64_t group = 1;
  int64_t head_dim = 8;
  int64_t block_size = 16;
  int64_t num_blocks = 1;
  int64_t max_blocks = 1;
  std::vector<int32_t> query_lens;
  std::vector<int32_t> context_lens;
  std::vector<int32_t> cu_seqlens{0};
  std::vector<int32_t> block_tables;  // -1 where a sequence has no block

  int64_t sequences() const { return static_cast<int64_t>(context_lens.size()); }
  int64_t tokens() const { return cu_seqlens.back(); }
  int64_t q_heads() const { return num_kv_heads * group; }
  int64_t CacheIndex(int64_t s, int64_t position, int64_t head) const {
    const int64_t block = block_tables[s * max_blocks + position / block_size];
    return ((block * num_kv_heads + head) * block_size + position % block_size) * head_dim;
  }
  int64_t cache_size() const { return num_blocks * num_kv_heads * block_size * head_dim; }
};

PagedBatch RandomBatch(Random& random) {
  PagedBatch batch;
  batch.num_kv_heads = random.OneOf({1, 2, 3});
  batch.group = random.OneOf({1, 2, 4, 8, 16});
  batch.head_dim = random.OneOf({8, 16, 24, 32, 64, 80, 128});
  batch.block_size = random.OneOf({1, 4, 8, 16, 32});
  const int64_t sequences = random.OneOf({1, 2, 3, 5});
  int64_t blocks = 0;
  for (int64_t s = 0; s < sequences; ++s) {
    const bool padding = random.Chance(0.15);
    const int64_t context = padding ? 0 : random.OneOf({1, 2, 15, 16, 17, 33, 90});
    const int64_t query = padding
                              ? random.Int(0, 3)
                              : random.OneOf({0, 1, 1, 1, std::min<int64_t>(context, 5), context});
    batch.query_lens.push_back(static_cast<int32_t>(query));
    batch.context_lens.push_back(static_cast<int32_t>(context));
    batch.cu_seqlens.push_back(batch.cu_seqlens.back() + static_cast<int32_t>(query));
    const int64_t needed = (context + batch.block_size - 1) / batch.block_size;
    batch.max_blocks = std::max(batch.max_blocks, needed);
    blocks += needed;
  }
  batch.num_blocks = blocks + 2;
  std::vector<int32_t> free(batch.num_blocks);
  std::iota(free.begin(), free.end(), 0);
  std::shuffle(free.begin(), free.end(), random.engine());
  batch.block_tables.assign(sequences * batch.max_blocks, -1);
  for (int64_t s = 0; s < sequences; ++s) {
    const int64_t needed = (batch.context_lens[s] + batch.block_size - 1) / batch.block_size;
    for (int64_t b = 0; b < needed; ++b) {
      batch.block_tables[s * batch.max_blocks + b] = free.back();
      free.pop_back();
    }
  }
  return batch;
}

// Everything an attention call must not read is NaN.
std::vector<float> PoisonUnusedSlots(const PagedBatch& batch, const std::vector<float>& cache) {
  std::vector<float> poisoned(cache.size(), std::nanf(""));
  for (int64_t s = 0; s < batch.sequences(); ++s) {
    for (int64_t position = 0; position < batch.context_lens[s]; ++position) {
      for (int64_t head = 0; head < batch.num_kv_heads; ++head) {
        const int64_t begin = batch.CacheIndex(s, position, head);
        std::copy_n(cache.begin() + begin, batch.head_dim, poisoned.begin() + begin);
      }
    }
  }
  return poisoned;
}

// softmax(q K^T * scale) V of one query head in double.
std::vector<double> Formula(const PagedBatch& batch, const std::vector<float>& q,
                            const std::vector<float>& k, const std::vector<float>& v,
                            int64_t window, float scale) {
  const int64_t d = batch.head_dim;
  std::vector<double> out(q.size());
  for (int64_t s = 0; s < batch.sequences(); ++s) {
    if (batch.context_lens[s] == 0) continue;  // padding: zeros
    for (int64_t t = batch.cu_seqlens[s]; t < batch.cu_seqlens[s + 1]; ++t) {
      const int64_t p = batch.context_lens[s] - batch.cu_seqlens[s + 1] + t;
      for (int64_t h = 0; h < batch.q_heads(); ++h) {
        const int64_t q_begin = (t * batch.q_heads() + h) * d;
        double total = 0;
        for (int64_t j = 0; j <= p; ++j) {
          if (window > 0 && j <= p - window) continue;
          const int64_t slot = batch.CacheIndex(s, j, h / batch.group);
          double score = 0;
          for (int64_t i = 0; i < d; ++i) {
            score += static_cast<double>(q[q_begin + i]) * k[slot + i];
          }
          const double weight = std::exp(score * scale);
          total += weight;
          for (int64_t i = 0; i < d; ++i) out[q_begin + i] += weight * v[slot + i];
        }
        for (int64_t i = 0; i < d; ++i) out[q_begin + i] /= total;
      }
    }
  }
  return out;
}

TEST_P(AttentionTest, MatchesTheFormula) {
  ForSeeds(40, [&](Random& random) {
    const PagedBatch batch = RandomBatch(random);
    const DType kv_dtype = random.Chance(0.5) ? DType::kF32 : DType::kBF16;
    const int64_t width = batch.q_heads() * batch.head_dim;
    const std::vector<float> q = Activations(random, batch.tokens() * width);
    const std::vector<float> k =
        PoisonUnusedSlots(batch, RoundTo(kv_dtype, random.Normals(batch.cache_size())));
    const std::vector<float> v =
        PoisonUnusedSlots(batch, RoundTo(kv_dtype, random.Normals(batch.cache_size())));
    const std::vector<int64_t> cache_dims{batch.num_blocks, batch.num_kv_heads, batch.block_size,
                                          batch.head_dim};
    const TestTensor k_tensor(device(), kv_dtype, cache_dims, k);
    const TestTensor v_tensor(device(), kv_dtype, cache_dims, v);
    const int64_t gap = random.OneOf({0, 2 * batch.head_dim});
    const TestTensor q_tensor(device(), act(), {batch.tokens(), width}, q, gap);
    const TestTensor tables =
        TestTensor::Ints(device(), {batch.sequences(), batch.max_blocks}, batch.block_tables);
    const TestTensor cu_seqlens =
        TestTensor::Ints(device(), {batch.sequences() + 1}, batch.cu_seqlens);
    const TestTensor context = TestTensor::Ints(device(), {batch.sequences()}, batch.context_lens);
    const TestTensor out(device(), act(), {batch.tokens(), width});
    const auto window = static_cast<int32_t>(random.OneOf({0, 0, 1, 3, 16, 50}));
    const float scale = 1.0F / std::sqrt(static_cast<float>(batch.head_dim));
    ops().PagedAttention({.q = q_tensor,
                          .kv = {k_tensor, v_tensor},
                          .block_tables = tables,
                          .cu_seqlens = cu_seqlens,
                          .context_lens = context,
                          .num_q_heads = static_cast<int32_t>(batch.q_heads()),
                          .num_kv_heads = static_cast<int32_t>(batch.num_kv_heads),
                          .window = window,
                          .scale = scale,
                          .out = out});
    EXPECT_LE(WorstError(out.Floats(), Formula(batch, q, k, v, window, scale)),
              kAttention.Of(kv_dtype) + RoundingError(act()))
        << "head_dim " << batch.head_dim << " group " << batch.group << " window " << window;
    k_tensor.ExpectUnchanged();
    v_tensor.ExpectUnchanged();
    q_tensor.ExpectUnchanged();
  });
}

// The larger scores of real heads: the softmax must not overflow and must follow a sharp peak.
TEST_P(AttentionTest, SurvivesLargeScores) {
  Random random(7);
  const int64_t d = 64;
  const int32_t context = 40;
  std::vector<float> k = RoundTo(DType::kBF16, random.Normals(48 * d));
  std::vector<float> v = RoundTo(DType::kBF16, random.Normals(48 * d));
  std::vector<float> q(d);
  for (int64_t i = 0; i < d; ++i) q[i] = RoundTo(act(), 100 * k[21 * d + i]);
  const TestTensor k_tensor(device(), DType::kBF16, {3, 1, 16, d}, k);
  const TestTensor v_tensor(device(), DType::kBF16, {3, 1, 16, d}, v);
  const TestTensor q_tensor(device(), act(), {1, d}, q);
  const TestTensor tables = TestTensor::Ints(device(), {1, 3}, {0, 1, 2});
  const TestTensor cu_seqlens = TestTensor::Ints(device(), {2}, {0, 1});
  const TestTensor context_lens = TestTensor::Ints(device(), {1}, {context});
  const TestTensor out(device(), act(), {1, d});
  ops().PagedAttention({.q = q_tensor,
                        .kv = {k_tensor, v_tensor},
                        .block_tables = tables,
                        .cu_seqlens = cu_seqlens,
                        .context_lens = context_lens,
                        .num_q_heads = 1,
                        .num_kv_heads = 1,
                        .window = 0,
                        .scale = 1.0F,
                        .out = out});
  const std::vector<float> peak(v.begin() + 21 * d, v.begin() + 22 * d);
  EXPECT_LE(WorstError(out.Floats(), peak), kAttention.Of(DType::kBF16));
}

std::vector<double> NormAndRotate(const float* x, const std::vector<float>& norm,
                                  const float* cos_sin, double eps) {
  const auto d = static_cast<int64_t>(norm.size());
  double squares = 0;
  for (int64_t i = 0; i < d; ++i) squares += static_cast<double>(x[i]) * x[i];
  const double scale = 1 / std::sqrt(squares / static_cast<double>(d) + eps);
  std::vector<double> out(d);
  for (int64_t i = 0; i < d; ++i) {
    const int64_t pair = i % (d / 2);
    const int64_t other = i < d / 2 ? i + d / 2 : i - d / 2;
    const double rotated = (i < d / 2 ? -1.0 : 1.0) * x[other] * scale * norm[other];
    out[i] = x[i] * scale * norm[i] * cos_sin[pair] + rotated * cos_sin[pair + d / 2];
  }
  return out;
}

TEST_P(AttentionTest, NormRopeAndStoreMatchTheFormula) {
  ForSeeds(30, [&](Random& random) {
    const int64_t d = random.OneOf({8, 16, 24, 64, 128});
    const int64_t nk = random.OneOf({1, 2, 4});
    const int64_t nq = nk * random.OneOf({1, 2, 8});
    const int64_t tokens = random.OneOf({0, 1, 2, 7, 20});
    const int64_t block_size = random.OneOf({1, 4, 16});
    const int64_t num_blocks = 32 / block_size + 1;
    const int64_t max_positions = 50;
    const DType kv_dtype = random.Chance(0.5) ? DType::kF32 : DType::kBF16;
    const int64_t width = (nq + 2 * nk) * d;
    const float eps = 1e-6F;
    const std::vector<float> qkv = Activations(random, tokens * width, 3.0F);
    const std::vector<float> q_norm = random.Normals(d);
    const std::vector<float> k_norm = random.Normals(d);
    const std::vector<float> cos_sin = random.Normals(max_positions * d);
    std::vector<int32_t> slots(num_blocks * block_size);
    std::iota(slots.begin(), slots.end(), 0);
    std::shuffle(slots.begin(), slots.end(), random.engine());
    slots.resize(tokens);
    std::vector<int32_t> positions;
    for (int32_t& slot : slots) {
      positions.push_back(static_cast<int32_t>(random.Int(0, max_positions - 1)));
      if (random.Chance(0.2)) slot = -1;
    }
    const TestTensor qkv_tensor(device(), act(), {tokens, width}, qkv, random.OneOf({0, 6}));
    const TestTensor q_norm_tensor(device(), DType::kF32, {d}, q_norm);
    const TestTensor k_norm_tensor(device(), DType::kF32, {d}, k_norm);
    const TestTensor table(device(), DType::kF32, {max_positions, d}, cos_sin);
    const TestTensor positions_tensor = TestTensor::Ints(device(), {tokens}, positions);
    const TestTensor slots_tensor = TestTensor::Ints(device(), {tokens}, slots);
    const TestTensor k_cache(device(), kv_dtype, {num_blocks, nk, block_size, d});
    const TestTensor v_cache(device(), kv_dtype, {num_blocks, nk, block_size, d});
    ops().QkNormRopeStoreKv({.qkv = qkv_tensor,
                             .q_norm = q_norm_tensor,
                             .k_norm = k_norm_tensor,
                             .cos_sin = table,
                             .positions = positions_tensor,
                             .slot_mapping = slots_tensor,
                             .kv = {k_cache, v_cache},
                             .num_q_heads = static_cast<int32_t>(nq),
                             .num_kv_heads = static_cast<int32_t>(nk),
                             .eps = eps});
    std::vector<float> q_actual;
    std::vector<float> k_actual;
    std::vector<float> v_actual;
    std::vector<double> q_expected;
    std::vector<double> k_expected;
    std::vector<float> v_expected;
    const std::vector<float> qkv_after = qkv_tensor.Floats();
    std::vector<float> k_after = k_cache.Floats();
    const std::vector<float> v_after = v_cache.Floats();
    for (int64_t t = 0; t < tokens; ++t) {
      const float* angles = cos_sin.data() + positions[t] * d;
      for (int64_t h = 0; h < nq + nk; ++h) {
        const int64_t begin = t * width + h * d;
        const bool is_q = h < nq;
        const std::vector<double> rotated =
            NormAndRotate(qkv.data() + begin, is_q ? q_norm : k_norm, angles, eps);
        if (is_q) {
          q_expected.insert(q_expected.end(), rotated.begin(), rotated.end());
          for (int64_t i = 0; i < d; ++i) q_actual.push_back(qkv_after[begin + i]);
          continue;
        }
        if (slots[t] < 0) continue;
        const int64_t slot =
            ((slots[t] / block_size * nk + h - nq) * block_size + slots[t] % block_size) * d;
        k_expected.insert(k_expected.end(), rotated.begin(), rotated.end());
        for (int64_t i = 0; i < d; ++i) {
          k_actual.push_back(k_after[slot + i]);
          k_after[slot + i] = std::nanf("");
          v_actual.push_back(v_after[slot + i]);
          v_expected.push_back(RoundTo(kv_dtype, qkv[begin + nk * d + i]));
        }
      }
    }
    EXPECT_LE(WorstError(q_actual, q_expected), kRopeTolerance + RoundingError(act()));
    EXPECT_LE(WorstError(k_actual, k_expected), kRopeTolerance + RoundingError(kv_dtype));
    EXPECT_EQ(v_actual, v_expected);
    EXPECT_TRUE(std::all_of(k_after.begin(), k_after.end(), [](float x) { return std::isnan(x); }))
        << "a slot that is in no mapping was written";
  });
}

}  // namespace
}  // namespace tessera::test
