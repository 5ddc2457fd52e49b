#include "tests/kernels/cuda/attention_case.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "kernels/cuda/fake/emulated_gpus.h"
#include "kernels/cuda/simt/simt.h"
#include "kernels/cuda/tensor_map.h"
#include "tests/kernels/cuda/guarded_array.h"

namespace tessera::test {
namespace {

using cuda::AttentionProblem;
using simt::Bf16;

// Where the positions of a batch lie in the cache.
struct Pages {
  int max_blocks = 1;
  int num_blocks = 2;           // two that nobody owns
  std::vector<int32_t> tables;  // [sequences, max_blocks], -1 where there is no block
};

Pages RandomPages(Random& random, const AttentionHeads& heads,
                  const std::vector<AttentionSequence>& batch) {
  Pages pages;
  for (const AttentionSequence& sequence : batch) {
    const int needed = simt::CeilDiv(sequence.context, heads.block_size);
    pages.max_blocks = std::max(pages.max_blocks, needed);
    pages.num_blocks += needed;
  }
  std::vector<int32_t> free(pages.num_blocks);
  std::iota(free.begin(), free.end(), 0);
  std::shuffle(free.begin(), free.end(), random.engine());
  pages.tables.assign(batch.size() * pages.max_blocks, -1);
  for (size_t s = 0; s < batch.size(); ++s) {
    const int needed = simt::CeilDiv(batch[s].context, heads.block_size);
    for (int b = 0; b < needed; ++b, free.pop_back()) {
      pages.tables[s * pages.max_blocks + b] = free.back();
    }
  }
  return pages;
}

template <typename T>
T Element(float value) {
  if constexpr (std::is_same_v<T, Bf16>) {
    return simt::ToBf16(value);
  } else {
    return value;
  }
}
float Value(float value) { return value; }
float Value(Bf16 value) { return simt::ToFloat(value); }

// The cache with NaN wherever no sequence has a position.
template <typename T>
std::vector<T> Cache(const AttentionHeads& heads, const std::vector<AttentionSequence>& batch,
                     const Pages& pages, std::vector<float> AttentionSequence::*values) {
  const int page = heads.block_size * heads.dim;
  std::vector<T> cache(static_cast<size_t>(pages.num_blocks) * heads.kv_heads * page,
                       Element<T>(std::nanf("")));
  for (size_t s = 0; s < batch.size(); ++s) {
    for (int j = 0; j < batch[s].context; ++j) {
      const int block = pages.tables[s * pages.max_blocks + j / heads.block_size];
      for (int h = 0; h < heads.kv_heads; ++h) {
        const int64_t to = (int64_t{block} * heads.kv_heads + h) * page +
                           int64_t{j % heads.block_size} * heads.dim;
        for (int d = 0; d < heads.dim; ++d) {
          cache[to + d] =
              Element<T>((batch[s].*values)[(int64_t{j} * heads.kv_heads + h) * heads.dim + d]);
        }
      }
    }
  }
  return cache;
}

simt::TensorMap MapOf(const void* cache, const AttentionProblem& problem, int num_blocks) {
  simt::TensorMap map;
  EXPECT_EQ(cuda::EncodeTensorMap({.data = cache,
                                   .pages = num_blocks,
                                   .rows = int64_t{problem.kv_heads} * problem.block_size,
                                   .cols = problem.head_dim,
                                   .page_stride = problem.block_stride,
                                   .box_rows = cuda::Sm90PageRows(problem)},
                                  &map),
            cudaSuccess);
  return map;
}

cudaError_t Launch(const AttentionProblem& problem, int num_blocks, const AttentionLayout& layout) {
  if (layout.sm90 == nullptr) return layout.launch(nullptr, problem);
  cuda::AttentionSm90Maps maps;
  if (cuda::Sm90LoadsPages(problem)) {
    maps.k = MapOf(problem.k, problem, num_blocks);
    maps.v = MapOf(problem.v, problem, num_blocks);
  }
  return layout.sm90(nullptr, problem, maps);
}

template <typename Act, typename Kv>
std::vector<float> AttendTyped(Random& random, const AttentionHeads& heads,
                               const std::vector<AttentionSequence>& batch,
                               const AttentionLayout& layout, std::string* report) {
  const Pages pages = RandomPages(random, heads, batch);
  std::vector<int32_t> cu_seqlens{0};
  std::vector<int32_t> contexts;
  std::vector<float> q_values;
  for (const AttentionSequence& sequence : batch) {
    cu_seqlens.push_back(cu_seqlens.back() + sequence.queries);
    contexts.push_back(sequence.context);
    q_values.insert(q_values.end(), sequence.q.begin(), sequence.q.end());
  }
  const int width = heads.q_width();
  const int stride = width + layout.q_gap;
  std::vector<Act> q_rows(static_cast<size_t>(cu_seqlens.back()) * stride,
                          Element<Act>(std::nanf("")));
  for (size_t i = 0; i < q_values.size(); ++i) {
    q_rows[i / width * stride + i % width] = Element<Act>(q_values[i]);
  }
  const GuardedArray<Act> q(q_rows);
  const GuardedArray<Kv> k(Cache<Kv>(heads, batch, pages, &AttentionSequence::k), layout.kv_offset);
  const GuardedArray<Kv> v(Cache<Kv>(heads, batch, pages, &AttentionSequence::v), layout.kv_offset);
  const GuardedArray<int32_t> tables(pages.tables);
  const GuardedArray<int32_t> cu_seqlens_array(cu_seqlens);
  const GuardedArray<int32_t> contexts_array(contexts);
  const GuardedArray<uint32_t> counters{std::vector<uint32_t>(cuda::Workspace::kNumCounters)};
  const auto out = GuardedArray<Act>::Poisoned(q_values.size());
  AttentionProblem problem{
      .act_bf16 = heads.act_bf16,
      .kv_bf16 = heads.kv_bf16,
      .q = q.data(),
      .q_stride = stride,
      .k = k.data(),
      .v = v.data(),
      .block_stride = int64_t{heads.kv_heads} * heads.block_size * heads.dim,
      .block_tables = tables.data(),
      .table_stride = pages.max_blocks,
      .cu_seqlens = cu_seqlens_array.data(),
      .context_lens = contexts_array.data(),
      .out = out.data(),
      .out_stride = width,
      .tokens = cu_seqlens.back(),
      .sequences = static_cast<int32_t>(batch.size()),
      .max_context =
          std::max(layout.max_context, *std::max_element(contexts.begin(), contexts.end())),
      .q_heads = heads.kv_heads * heads.group,
      .kv_heads = heads.kv_heads,
      .head_dim = heads.dim,
      .block_size = heads.block_size,
      .window = heads.window,
      .scale = 1.0F / std::sqrt(static_cast<float>(heads.dim))};
  size_t bytes = 0;
  if (layout.workspace) {
    bytes = layout.sm90 == nullptr ? cuda::AttentionWorkspaceBytes(problem)
                                   : cuda::AttentionSm90WorkspaceBytes(problem);
  }
  const auto workspace = GuardedArray<char>::Poisoned(bytes + 16);
  problem.workspace = {workspace.data(), bytes, counters.data()};
  EXPECT_EQ(Launch(problem, pages.num_blocks, layout), cudaSuccess);
  if (report != nullptr && cudaDeviceSynchronize() != cudaSuccess) {
    *report = simt::fake::AnyReport();
    simt::fake::Reset();
    return {};
  }
  std::vector<float> values;
  for (const Act value : out.Get()) values.push_back(Value(value));
  k.ExpectUnchanged();
  counters.ExpectUnchanged();  // back at zero
  return values;
}

// One query head in double.
std::vector<double> Formula(const AttentionHeads& heads, const AttentionSequence& sequence,
                            int query, int head) {
  const int position = sequence.context - sequence.queries + query;
  const int first = heads.window > 0 ? std::max(0, position - heads.window + 1) : 0;
  const float* q =
      sequence.q.data() + (int64_t{query} * heads.kv_heads * heads.group + head) * heads.dim;
  std::vector<double> sums(heads.dim);
  double total = 0;
  for (int j = first; j <= position && sequence.context > 0; ++j) {
    const int64_t at = (int64_t{j} * heads.kv_heads + head / heads.group) * heads.dim;
    double score = 0;
    for (int d = 0; d < heads.dim; ++d) score += static_cast<double>(q[d]) * sequence.k[at + d];
    const double weight = std::exp(score / std::sqrt(static_cast<double>(heads.dim)));
    total += weight;
    for (int d = 0; d < heads.dim; ++d) sums[d] += weight * sequence.v[at + d];
  }
  for (double& sum : sums) sum = sequence.context > 0 ? sum / total : 0.0;
  return sums;
}

AttentionLayout Without(AttentionLayout layout) {
  layout.workspace = false;
  return layout;
}

}  // namespace

AttentionHeads RandomHeads(Random& random) {
  return {.act_bf16 = random.Chance(0.5),
          .kv_bf16 = random.Chance(0.6),
          .kv_heads = static_cast<int>(random.OneOf({1, 2, 3})),
          .group = static_cast<int>(random.OneOf({1, 2, 5, 8, 16})),
          .dim = static_cast<int>(random.OneOf({8, 20, 32, 40, 64, 80, 128})),
          .block_size = static_cast<int>(random.OneOf({1, 4, 16, 24})),
          .window = static_cast<int>(random.OneOf({0, 0, 1, 3, 20, 300}))};
}

AttentionSequence RandomSequence(Random& random, const AttentionHeads& heads, int context,
                                 int queries) {
  const DType act = heads.act_bf16 ? DType::kBF16 : DType::kF32;
  const auto values = [&](DType dtype, int rows, int width) {
    return RoundTo(dtype, random.Normals(int64_t{rows} * width));
  };
  AttentionSequence sequence{context, queries, {}, {}, {}};
  sequence.q = values(act, queries, heads.q_width());
  sequence.k = values(heads.kv_dtype(), context, heads.kv_width());
  sequence.v = values(heads.kv_dtype(), context, heads.kv_width());
  return sequence;
}

AttentionSequence Chunk(const AttentionHeads& heads, const AttentionSequence& whole, int begin,
                        int end) {
  const auto part = [](const std::vector<float>& values, int width, int first, int last) {
    return std::vector<float>(values.begin() + static_cast<ptrdiff_t>(first) * width,
                              values.begin() + static_cast<ptrdiff_t>(last) * width);
  };
  return {end, end - begin, part(whole.q, heads.q_width(), begin, end),
          part(whole.k, heads.kv_width(), 0, end), part(whole.v, heads.kv_width(), 0, end)};
}

std::vector<AttentionSequence> RandomBatch(Random& random, const AttentionHeads& heads) {
  std::vector<AttentionSequence> batch;
  for (int64_t s = random.Int(1, 4); s > 0; --s) {
    const bool padding = random.Chance(0.15);
    const int context = padding ? 0 : static_cast<int>(random.OneOf({1, 2, 16, 33, 70, 300}));
    const int queries = static_cast<int>(padding ? random.Int(0, 2)
                                                 : random.OneOf({0, 1, 1, std::min(context, 9)}));
    batch.push_back(RandomSequence(random, heads, context, queries));
  }
  return batch;
}

std::vector<float> Attend(Random& random, const AttentionHeads& heads,
                          const std::vector<AttentionSequence>& batch,
                          const AttentionLayout& layout, std::string* report) {
  if (heads.act_bf16) {
    return heads.kv_bf16 ? AttendTyped<Bf16, Bf16>(random, heads, batch, layout, report)
                         : AttendTyped<Bf16, float>(random, heads, batch, layout, report);
  }
  return heads.kv_bf16 ? AttendTyped<float, Bf16>(random, heads, batch, layout, report)
                       : AttendTyped<float, float>(random, heads, batch, layout, report);
}

std::vector<double> Expected(const AttentionHeads& heads,
                             const std::vector<AttentionSequence>& batch) {
  std::vector<double> expected;
  for (const AttentionSequence& sequence : batch) {
    for (int t = 0; t < sequence.queries; ++t) {
      for (int h = 0; h < heads.kv_heads * heads.group; ++h) {
        const std::vector<double> values = Formula(heads, sequence, t, h);
        expected.insert(expected.end(), values.begin(), values.end());
      }
    }
  }
  return expected;
}

void ExpectSameBitsHoweverItIsCut(Random& random, AttentionHeads heads,
                                  const AttentionLayout& layout) {
  heads.act_bf16 = false;
  const int context = static_cast<int>(random.OneOf({270, 530}));
  const AttentionSequence all = RandomSequence(random, heads, context, context);
  const int begin = context - 40;
  const std::vector<float> whole =
      Attend(random, heads, {Chunk(heads, all, begin, context)}, Without(layout));
  for (int trial = 0; trial < 5; ++trial) {
    const auto first = static_cast<int>(random.Int(begin, context - 1));
    const int last = trial < 2 ? first + 1 : static_cast<int>(random.Int(first + 1, context));
    std::vector<AttentionSequence> batch;
    const int64_t before = random.Int(0, 2);
    for (int64_t i = 0; i < before; ++i) batch.push_back(RandomSequence(random, heads, 5, 3));
    batch.push_back(Chunk(heads, all, first, last));
    if (random.Chance(0.5)) batch.push_back(RandomSequence(random, heads, 290, 2));
    const std::vector<float> out =
        Attend(random, heads, batch, random.Chance(0.7) ? layout : Without(layout));
    const auto skipped = static_cast<ptrdiff_t>(before * 3) * heads.q_width();
    const ptrdiff_t size = static_cast<ptrdiff_t>(last - first) * heads.q_width();
    const std::vector<float> part(out.begin() + skipped, out.begin() + skipped + size);
    const auto at = whole.begin() + static_cast<ptrdiff_t>(first - begin) * heads.q_width();
    ASSERT_EQ(part, std::vector<float>(at, at + size))
        << "positions " << first << " to " << last << " of " << context << ", window "
        << heads.window << " kv_bf16 " << heads.kv_bf16;
  }
}

}  // namespace tessera::test
