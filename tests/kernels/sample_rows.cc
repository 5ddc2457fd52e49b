#include "tests/kernels/sample_rows.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <utility>

#include "kernels/core/bit_mask.h"

namespace tessera::test {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

}  // namespace

SampleRowCase Row(std::vector<float> logits) {
  SampleRowCase row;
  row.logits = std::move(logits);
  return row;
}

SampleRowCase RandomRow(Random& random, int64_t vocab) {
  SampleRowCase row = Row(random.Normals(vocab, random.Chance(0.5) ? 1.0F : 6.0F));
  if (random.Chance(0.3)) {
    for (float& l : row.logits) l = std::round(l);  // Ties, also at every limit.
  }
  if (random.Chance(0.3)) {
    for (float& l : row.logits) l = random.Chance(0.3) ? -kInfinity : l;
  }
  row.logits[random.Int(0, vocab - 1)] = 5.0F;  // At least one token is possible.
  row.temperature = random.Chance(0.3) ? 0.0F : 0.1F * static_cast<float>(random.Int(1, 20));
  if (random.Chance(0.5)) row.top_k = static_cast<int32_t>(random.OneOf({1, 2, 20, 64, 1024}));
  if (random.Chance(0.5)) row.top_p = 0.05F * static_cast<float>(random.Int(0, 20));
  if (random.Chance(0.3)) row.min_p = 0.02F * static_cast<float>(random.Int(1, 20));
  row.seed = random.Int(0, int64_t{1} << 62);
  row.position = static_cast<int32_t>(random.Int(0, 40000));
  if (random.Chance(0.5)) {
    row.repetition_penalty = 1.2F;
    row.presence_penalty = 0.5F;
    row.frequency_penalty = 0.3F;
    const int64_t first = random.Int(0, vocab - 1);
    const int64_t last = random.Chance(0.1) ? vocab : std::min(vocab, first + 20);
    for (int64_t token = first; token < last; token += 3) {
      row.penalties.push_back(
          {static_cast<int32_t>(token), static_cast<int32_t>(random.Int(0, 4))});
    }
    if (random.Chance(0.5)) {
      for (int64_t id = 0; id < vocab; ++id) {
        row.counts.push_back(random.Chance(0.1) ? static_cast<int32_t>(random.Int(0, 4)) : -1);
      }
      if (random.Chance(0.5)) row.penalties.clear();
    }
  }
  for (int64_t i = random.Int(0, 3); i > 0; --i) {
    row.adjustments.push_back({static_cast<int32_t>(random.Int(0, vocab - 1)),
                               random.Chance(0.3) ? -kInfinity : random.Normal(5.0F)});
  }
  if (random.Chance(0.4)) {
    // Words that say nothing, everything or something; the bits beyond the last token are noise.
    for (int64_t i = 0; i < MaskWords(vocab); ++i) {
      row.mask.push_back(
          static_cast<int32_t>(random.OneOf({0, -1, random.Int(INT32_MIN, INT32_MAX)})));
    }
  }
  if (random.Chance(0.2)) row.forced = static_cast<int32_t>(random.Int(0, vocab - 1));
  row.num_logprobs = static_cast<int32_t>(random.OneOf({-1, 0, 1, 5, 20}));
  if (row.forced < 0 && row.num_logprobs >= 0 && random.Chance(0.3)) {
    row.forced = SampleArgs::kCandidateRow;
    row.temperature = 0.0F;
    row.penalties.clear();
    row.counts.clear();
    if (random.Chance(0.5)) row.mask_penalty = 0.5F * static_cast<float>(random.Int(0, 9));
  }
  return row;
}

SampleRowCase EdgeRow(Random& random, int64_t vocab) {
  SampleRowCase row = RandomRow(random, vocab);
  const float scale = random.Chance(0.5) ? 1.0F : std::exp2(random.Normal(30.0F));
  const int64_t values = random.OneOf({1, 2, 3, 100, vocab});  // distinct ones, about
  const std::vector<float> palette = random.Normals(values, scale);
  for (float& l : row.logits) l = palette[random.Int(0, values - 1)];
  if (random.Chance(0.3)) {
    for (float& l : row.logits) l = random.Chance(0.95) ? -kInfinity : l;
  }
  row.logits[random.Int(0, vocab - 1)] = palette[0];
  const auto one_of = [&](std::initializer_list<float> choices) {
    return choices.begin()[random.Int(0, static_cast<int64_t>(choices.size()) - 1)];
  };
  if (row.forced == SampleArgs::kCandidateRow) return row;
  row.temperature = one_of({0.0F, 0.9e-5F, 1e-5F, 1e-3F, 1.0F, 2.0F, 100.0F, 1e30F, kInfinity});
  row.top_k = static_cast<int32_t>(random.OneOf({0, 1, 2, 1000, 1025, 3000, vocab, vocab + 1}));
  row.top_p = one_of({0.0F, 1e-30F, 1e-7F, 0.25F, 0.5F, 0.75F, 0.9F, 0.99999F, 0.99999994F, 1.0F});
  row.min_p = one_of({0.0F, 0.0F, 1e-30F, 1e-5F, 0.5F, 0.99999994F, 1.0F});
  return row;
}

void ExpectSame(const std::vector<SampledRow>& actual, const std::vector<SampledRow>& expected) {
  ASSERT_EQ(actual.size(), expected.size());
  const auto near = [](float a, float b) {
    return a == b || (std::isnan(a) && std::isnan(b)) ||
           std::abs(a - b) <= kLogprobTolerance * (1 + std::abs(b));
  };
  for (size_t n = 0; n < actual.size(); ++n) {
    EXPECT_EQ(actual[n].token, expected[n].token) << "row " << n;
    EXPECT_EQ(actual[n].rank, expected[n].rank) << "row " << n;
    EXPECT_EQ(actual[n].top_tokens, expected[n].top_tokens) << "row " << n;
    EXPECT_EQ(actual[n].counts, expected[n].counts) << "row " << n;
    EXPECT_PRED2(near, actual[n].logprob, expected[n].logprob) << "row " << n;
    for (size_t j = 0; j < actual[n].top_logprobs.size(); ++j) {
      EXPECT_PRED2(near, actual[n].top_logprobs[j], expected[n].top_logprobs[j]) << "row " << n;
    }
  }
}

}  // namespace tessera::test
