// Sampling: the naive sampler against exact distributions, everything else against the naive one.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <map>
#include <numeric>

#include "kernels/core/bit_mask.h"
#include "tests/kernels/op_test.h"
#include "tests/kernels/sample_case.h"
#include "tests/kernels/sample_rows.h"

namespace tessera::test {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

using Sampler = std::function<std::vector<SampledRow>(const std::vector<SampleRowCase>&)>;

class SampleTest : public OpTest {
 protected:
  std::vector<SampledRow> Run(const std::vector<SampleRowCase>& rows) {
    return Sample(ops(), rows);
  }
};
TESSERA_OP_TEST_SUITE(SampleTest);

// Probabilities of the kept tokens after steps 1 to 4, written out for a small vocabulary.
std::vector<double> ExactDistribution(const SampleRowCase& row) {
  std::vector<double> l(row.logits.begin(), row.logits.end());
  for (const auto& [token, count] : row.penalties) {
    l[token] = l[token] > 0 ? l[token] / row.repetition_penalty : l[token] * row.repetition_penalty;
    l[token] -= row.frequency_penalty * count + (count > 0 ? row.presence_penalty : 0);
  }
  for (const auto& [token, value] : row.adjustments) l[token] += value;
  for (size_t i = 0; i < l.size() && !row.mask.empty(); ++i) {
    if (!IsInMask(row.mask.data(), static_cast<int64_t>(i))) l[i] = -kInfinity;
  }
  std::vector<int> order(l.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return l[a] > l[b]; });
  std::vector<double> p(l.size());
  for (size_t i = 0; i < l.size(); ++i) p[i] = std::exp((l[i] - l[order[0]]) / row.temperature);
  size_t kept = row.top_k > 0 ? std::min<size_t>(row.top_k, l.size()) : l.size();
  double total = 0;
  for (size_t i = 0; i < kept; ++i) total += p[order[i]];
  double prefix = 0;
  for (size_t i = 0; i < kept && row.top_p < 1; ++i) {
    prefix += p[order[i]];
    if (prefix >= row.top_p * total) kept = i + 1;
  }
  while (kept > 1 && p[order[kept - 1]] < row.min_p) --kept;
  for (size_t i = kept; i < l.size(); ++i) p[order[i]] = 0;
  const double sum = std::accumulate(p.begin(), p.end(), 0.0);
  for (double& value : p) value /= sum;
  return p;
}

constexpr int kDraws = 4000;

// Draws tokens at as many positions and compares their counts with the exact distribution.
void ExpectDistribution(const Sampler& sampler, SampleRowCase row, int draws) {
  const std::vector<double> expected = ExactDistribution(row);
  std::vector<SampleRowCase> rows(draws, row);
  for (int i = 0; i < draws; ++i) {
    rows[i].seed = 17 + i % 7;
    rows[i].position = i;
  }
  std::vector<int> counts(expected.size());
  for (const SampledRow& sampled : sampler(rows)) {
    ASSERT_GE(sampled.token, 0);
    ++counts[sampled.token];
  }
  double chi_square = 0;
  int freedom = -1;
  for (size_t i = 0; i < expected.size(); ++i) {
    if (expected[i] == 0) {
      EXPECT_EQ(counts[i], 0) << "token " << i << " was cut off";
      continue;
    }
    const double mean = expected[i] * draws;
    chi_square += (counts[i] - mean) * (counts[i] - mean) / mean;
    ++freedom;
  }
  // Wilson-Hilferty: the quantile of chi-square at p = 0.0005 for the freedom at hand.
  const double k = std::max(1, freedom);
  const double cube = 1 - 2 / (9 * k) + 3.29 * std::sqrt(2 / (9 * k));
  EXPECT_LT(chi_square, k * cube * cube * cube) << freedom << " degrees of freedom";
}

const std::vector<float> kLogits{1.0F, 0.5F, -0.3F, 2.0F, 0.0F, 1.5F, -1.0F, 1.9F, 0.7F};

TEST_P(SampleTest, DrawsFollowTheExactDistributions) {
  const auto expect_distribution = [&](const SampleRowCase& row) {
    ExpectDistribution([&](const auto& rows) { return Run(rows); }, row, Cases(kDraws));
  };
  SampleRowCase row = Row(kLogits);
  {
    SCOPED_TRACE("plain");
    expect_distribution(row);
  }
  {
    SCOPED_TRACE("temperature");
    row.temperature = 0.6F;
    expect_distribution(row);
  }
  {
    SCOPED_TRACE("top_k");
    row.top_k = 4;
    expect_distribution(row);
  }
  {
    SCOPED_TRACE("top_k and top_p");
    row.top_p = 0.7F;
    expect_distribution(row);
  }
  {
    SCOPED_TRACE("top_p");
    row.top_k = 0;
    expect_distribution(row);
  }
  {
    SCOPED_TRACE("min_p");
    row.top_p = 1.0F;
    row.min_p = 0.3F;
    expect_distribution(row);
  }
  {
    SCOPED_TRACE("penalties and adjustments");
    row.min_p = 0.0F;
    row.repetition_penalty = 1.3F;
    row.presence_penalty = 0.2F;
    row.frequency_penalty = 0.1F;
    row.penalties = {{3, 2}, {2, 0}, {7, 1}};
    row.adjustments = {{4, 1.5F}, {5, -kInfinity}, {4, -0.5F}};
    expect_distribution(row);
  }
  {
    SCOPED_TRACE("mask");
    row.mask = {0b010110101};
    expect_distribution(row);
  }
}

TEST_P(SampleTest, PenaltiesFollowTheTable) {
  struct Case {
    float logit;
    float repetition;
    float presence;
    float frequency;
    int32_t count;
    float expected;
  };
  // A second token at the expected logit: with a hair more it must win, with a hair less not.
  for (const Case& c : {Case{2, 2, 0, 0, 0, 1}, Case{-2, 2, 0, 0, 0, -4}, Case{2, 1, 0.5F, 0, 0, 2},
                        Case{2, 1, 0.5F, 0, 3, 1.5F}, Case{2, 1, 0, 0.25F, 3, 1.25F},
                        Case{2, 2, 0.5F, 0.25F, 2, 0}, Case{2, 1, -0.5F, -0.25F, 2, 3}}) {
    for (const float margin : {-1e-3F, 1e-3F}) {
      SampleRowCase row = Row({c.logit, c.expected + margin});
      row.temperature = 0;
      row.repetition_penalty = c.repetition;
      row.presence_penalty = c.presence;
      row.frequency_penalty = c.frequency;
      row.penalties = {{0, c.count}};
      EXPECT_EQ(Run({row})[0].token, margin > 0 ? 1 : 0) << "expected logit " << c.expected;
    }
  }
}

// What a slot holds when `list` has been entered and `token` has been drawn.
std::vector<int32_t> CountsAfter(int64_t vocab,
                                 const std::vector<std::pair<int32_t, int32_t>>& list,
                                 int32_t token) {
  std::vector<int32_t> counts(vocab, -1);
  for (const auto& [id, count] : list) counts[id] = count;
  if (token >= 0) counts[token] = std::max(counts[token], 0) + 1;
  return counts;
}

TEST_P(SampleTest, SlotsCountWhatTheirRowsDraw) {
  std::vector<SampleRowCase> rows(5, Row(kLogits));
  for (SampleRowCase& row : rows) {
    row.temperature = 0;  // the largest is token 3
    row.penalties = {{3, 2}, {4, 0}, {7, 1}};
    row.counts.assign(kLogits.size(), 5);  // of the slot's last owner
  }
  rows[1].forced = 4;
  rows[2].forced = 0;
  rows[3].logits[2] = std::nanf("");
  rows[4].penalties = {};
  rows[4].counts = CountsAfter(9, {{3, 2}}, -1);
  const std::vector<SampledRow> sampled = Run(rows);
  EXPECT_EQ(sampled[0].counts, CountsAfter(9, rows[0].penalties, 3));
  EXPECT_EQ(sampled[1].counts, CountsAfter(9, rows[0].penalties, 4)) << "a forced token counts";
  EXPECT_EQ(sampled[2].counts, CountsAfter(9, rows[0].penalties, 0)) << "so does a new one";
  EXPECT_EQ(sampled[3].counts, CountsAfter(9, rows[0].penalties, -1)) << "there was no draw";
  EXPECT_EQ(sampled[4].counts, CountsAfter(9, {{3, 2}}, 3)) << "nothing was reset";
}

// A sequence whose counts stay on the device draws what it draws when the host lists all of them
// for every token.
void ExpectSlotsToReplaceLists(const Sampler& sampler, int cases,
                               std::initializer_list<int64_t> vocabs) {
  ForSeeds(cases, [&](Random& random) {
    const int64_t vocab = random.OneOf(vocabs);
    SampleRowCase row = Row({});
    row.temperature = random.Chance(0.3) ? 0.0F : 0.8F;
    row.top_p = random.Chance(0.5) ? 0.9F : 1.0F;
    row.repetition_penalty = random.Chance(0.5) ? 1.3F : 1.0F;
    row.presence_penalty = 0.4F;
    row.frequency_penalty = random.Chance(0.5) ? 0.7F : -0.2F;
    row.seed = random.Int(0, 1000);
    std::map<int32_t, int32_t> expected;
    for (int64_t i = random.Int(0, 30); i > 0; --i) {
      expected[static_cast<int32_t>(random.Int(0, vocab - 1))] = 0;
    }
    std::vector<int32_t> counts(vocab, -1);
    for (const auto& [token, count] : expected) counts[token] = count;
    for (int32_t position = 0; position < 8; ++position) {
      row.position = position;
      row.logits = random.Normals(vocab, 1.0F);
      row.num_logprobs = random.Chance(0.3) ? 2 : -1;
      row.forced = random.Chance(0.2) ? static_cast<int32_t>(random.Int(0, vocab - 1)) : -1;
      SampleRowCase listed = row;
      listed.penalties.assign(expected.begin(), expected.end());
      row.counts = counts;
      const std::vector<SampledRow> sampled = sampler({row, listed});
      ASSERT_EQ(sampled[0].token, sampled[1].token) << "position " << position;
      ASSERT_TRUE(listed.penalties.empty() || sampled[0].counts == sampled[1].counts);
      counts = sampled[0].counts;
      ++expected[sampled[0].token];
    }
  });
}

TEST_P(SampleTest, SlotsReplaceLists) {
  ExpectSlotsToReplaceLists([&](const auto& rows) { return Run(rows); }, 20, {1, 63, 64, 65, 500});
}

TEST(SampleRowTest, SlotsReplaceLists) {
  ExpectSlotsToReplaceLists(SampleByRow, 40, {1, 63, 64, 65, 500, 5003});
  ExpectSlotsToReplaceLists(SampleByRow, 2, {151936});
}

TEST_P(SampleTest, GreedyTakesTheLowestOfEqualLogits) {
  SampleRowCase row = Row(std::vector<float>(500, -0.0F));
  row.temperature = 0;
  row.logits[70] = row.logits[300] = 0.0F;  // Equal to -0.
  EXPECT_EQ(Run({row})[0].token, 0);
  row.logits[70] = row.logits[300] = 1.0F;
  EXPECT_EQ(Run({row})[0].token, 70);
}

TEST_P(SampleTest, RowsWithoutAnAnswerYieldMinusOne) {
  std::vector<SampleRowCase> rows(5, Row(kLogits));
  for (SampleRowCase& row : rows) row.num_logprobs = 2;
  rows[0].logits[4] = std::nanf("");
  rows[1].logits[4] = -std::nanf("");
  rows[2].logits[4] = kInfinity;
  rows[2].forced = 1;
  rows[3].logits.assign(kLogits.size(), -kInfinity);
  for (int32_t i = 0; i < 9; ++i) rows[4].adjustments.push_back({i, -kInfinity});
  for (const float temperature : {0.0F, 1.0F}) {
    for (SampleRowCase& row : rows) row.temperature = temperature;
    const std::vector<SampledRow> sampled = Run(rows);
    for (const SampledRow& row : sampled) {
      EXPECT_EQ(row.token, -1);
      EXPECT_EQ(row.logprob, -kInfinity);
      EXPECT_EQ(row.rank, 0);
    }
    EXPECT_EQ(sampled[0].top_tokens, (std::vector<int32_t>{-1, -1}));
    EXPECT_EQ(sampled[4].top_tokens, (std::vector<int32_t>{3, 7})) << "its raw logits are sound";
  }
}

TEST_P(SampleTest, ReportsRawLogprobsRanksAndAlternatives) {
  std::vector<SampleRowCase> rows(4, Row({1.0F, 3.0F, 3.0F, 0.0F}));
  rows[0].forced = 2;
  rows[0].num_logprobs = 3;
  rows[0].temperature = 0.1F;
  rows[1].forced = 3;
  rows[1].num_logprobs = 0;
  rows[2].temperature = 0;
  rows[2].adjustments = {{0, 100.0F}};  // Changes the token, not what is reported of it.
  rows[2].num_logprobs = 6;
  rows[3].temperature = 0;
  const std::vector<SampledRow> sampled = Run(rows);
  const double total = std::log(std::exp(1.0) + 2 * std::exp(3.0) + 1);
  EXPECT_EQ(sampled[0].token, 2);
  EXPECT_NEAR(sampled[0].logprob, 3 - total, kLogprobTolerance);
  EXPECT_EQ(sampled[0].rank, 2);
  EXPECT_EQ(sampled[0].top_tokens, (std::vector<int32_t>{1, 2, 0, -1, -1, -1}));
  EXPECT_NEAR(sampled[0].top_logprobs[2], 1 - total, kLogprobTolerance);
  EXPECT_TRUE(std::isnan(sampled[0].top_logprobs[3])) << "more than asked was written";
  EXPECT_EQ(sampled[1].token, 3);
  EXPECT_EQ(sampled[1].rank, 4);
  EXPECT_EQ(sampled[2].token, 0);
  EXPECT_EQ(sampled[2].rank, 3);
  EXPECT_NEAR(sampled[2].logprob, 1 - total, kLogprobTolerance);
  EXPECT_EQ(sampled[2].top_tokens, (std::vector<int32_t>{1, 2, 0, 3, -1, -1}));
  EXPECT_EQ(sampled[2].top_logprobs[5], -kInfinity);
  EXPECT_EQ(sampled[3].token, 1);
  EXPECT_TRUE(std::isnan(sampled[3].logprob)) << "no logprobs were wanted";
  EXPECT_EQ(sampled[3].rank, -1) << "the poison";
}

void ExpectSameAsReference(const Sampler& sampler, int cases) {
  const std::unique_ptr<Ops> reference = *CreateOps({.backend = "ref", .num_threads = 1});
  ForSeeds(cases, [&](Random& random) {
    const int64_t vocab = random.OneOf({1, 2, 63, 64, 65, 300, 1000, 5003});
    std::vector<SampleRowCase> rows;
    for (int64_t n = random.Int(1, 9); n > 0; --n) rows.push_back(RandomRow(random, vocab));
    ExpectSame(sampler(rows), Sample(*reference, rows));
  });
}

TEST_P(SampleTest, EqualsTheReference) {
  ExpectSameAsReference([&](const auto& rows) { return Run(rows); }, 60);
}

TEST(SampleRowTest, EqualsTheReference) { ExpectSameAsReference(SampleByRow, 300); }

TEST(SampleRowTest, EqualsTheReferenceOnARealVocabulary) {
  const std::unique_ptr<Ops> reference = *CreateOps({.backend = "ref", .num_threads = 1});
  ForSeeds(6, [&](Random& random) {
    const std::vector<SampleRowCase> rows{RandomRow(random, 151936), RandomRow(random, 151936)};
    ExpectSame(SampleByRow(rows), Sample(*reference, rows));
  });
}

TEST(SampleRowTest, DrawsFollowTheExactDistribution) {
  ExpectDistribution(SampleByRow, Row(kLogits), kDraws);
  SampleRowCase row = Row(kLogits);
  row.top_k = 5;
  row.top_p = 0.8F;
  row.temperature = 1.5F;
  ExpectDistribution(SampleByRow, row, kDraws);
}

TEST(SampleRowTest, EqualsTheReferenceAtTheEdges) {
  const std::unique_ptr<Ops> reference = *CreateOps({.backend = "ref", .num_threads = 1});
  ForSeeds(400, [&](Random& random) {
    const int64_t vocab = random.OneOf({1, 2, 63, 64, 65, 1000, 5003});
    std::vector<SampleRowCase> rows;
    for (int64_t n = random.Int(1, 9); n > 0; --n) rows.push_back(EdgeRow(random, vocab));
    ExpectSame(SampleByRow(rows), Sample(*reference, rows));
  });
}

// Half of the mass of an even number of equal tokens is reached without any rounding.
TEST(SampleRowTest, CutsEqualTokensWhereTheReferenceDoes) {
  const std::unique_ptr<Ops> reference = *CreateOps({.backend = "ref", .num_threads = 1});
  std::vector<SampleRowCase> rows;
  for (const float top_p : {0.25F, 0.5F, 0.75F}) {
    for (int32_t position = 0; position < 20; ++position) {
      rows.push_back(Row(std::vector<float>(4096, 1.5F)));
      rows.back().top_p = top_p;
      rows.back().position = position;
    }
  }
  const std::vector<SampledRow> sampled = SampleByRow(rows);
  ExpectSame(sampled, Sample(*reference, rows));
  for (size_t i = 0; i < rows.size(); ++i) EXPECT_LT(sampled[i].token, 4096 * rows[i].top_p);
}

// What one row gives with the mask as a list of bans.
std::vector<SampledRow> WithBans(const Sampler& sampler, std::vector<SampleRowCase> rows) {
  for (SampleRowCase& row : rows) {
    for (size_t id = 0; id < row.logits.size(); ++id) {
      if (!IsInMask(row.mask.data(), static_cast<int64_t>(id))) {
        row.adjustments.emplace_back(static_cast<int32_t>(id), -kInfinity);
      }
    }
    row.mask.clear();
  }
  return sampler(rows);
}

void ExpectMasksToBan(const Sampler& sampler, int cases, std::initializer_list<int64_t> vocabs) {
  ForSeeds(cases, [&](Random& random) {
    const int64_t vocab = random.OneOf(vocabs);
    std::vector<int32_t> mask(MaskWords(vocab));
    const int64_t allowed = random.OneOf({1, 2, vocab / 2, vocab});
    for (int64_t i = 0; i < allowed; ++i) AddToMask(mask.data(), random.Int(0, vocab - 1));
    std::vector<SampleRowCase> rows;
    for (int64_t n = random.Int(1, 4); n > 0; --n) {
      rows.push_back(RandomRow(random, vocab));
      rows.back().mask = mask;
      rows.back().mask_penalty = kInfinity;
    }
    const std::vector<SampledRow> masked = sampler(rows);
    const std::vector<SampledRow> banned = WithBans(sampler, rows);
    for (size_t n = 0; n < rows.size(); ++n) {
      EXPECT_EQ(masked[n].token, banned[n].token);
      EXPECT_EQ(masked[n].rank, banned[n].rank);
      EXPECT_EQ(masked[n].top_tokens, banned[n].top_tokens);
      if (rows[n].num_logprobs < 0) continue;
      EXPECT_EQ(masked[n].logprob, banned[n].logprob);
      EXPECT_TRUE(rows[n].forced >= 0 || masked[n].token < 0 ||
                  IsInMask(mask.data(), masked[n].token));
    }
  });
}

TEST_P(SampleTest, MasksDrawWhatListsOfBansDraw) {
  ExpectMasksToBan([&](const auto& rows) { return Run(rows); }, Cases(40),
                   {1, 31, 32, 33, 64, 1000, 5003});
}

TEST(SampleRowTest, MasksDrawWhatListsOfBansDraw) {
  ExpectMasksToBan(SampleByRow, 200, {1, 31, 32, 33, 63, 64, 65, 1000, 5003});
  ExpectMasksToBan(SampleByRow, 5, {151935, 151936});
}

TEST_P(SampleTest, AnEmptyMaskLeavesNoToken) {
  SampleRowCase row = Row(std::vector<float>(70, 1.0F));
  row.mask = {0, 0, ~0b111111};  // bits beyond the vocabulary allow nothing
  row.num_logprobs = 1;
  for (const float temperature : {0.0F, 1.0F}) {
    row.temperature = temperature;
    const SampledRow sampled = Run({row})[0];
    EXPECT_EQ(sampled.token, -1);
    EXPECT_EQ(sampled.logprob, -kInfinity);
    EXPECT_EQ(sampled.rank, 0);
    EXPECT_EQ(sampled.top_tokens, std::vector<int32_t>{0}) << "its raw logits are sound";
  }
  row.forced = 3;
  EXPECT_EQ(Run({row})[0].token, 3) << "a forced token asks no mask";
}

// A bias cannot lift what the mask bans, nor can a penalty that ran over.
TEST_P(SampleTest, NothingLiftsAMaskedToken) {
  SampleRowCase row = Row({3e38F, 1.0F, 0.0F});
  row.temperature = 0;
  row.repetition_penalty = 0.01F;
  row.penalties = {{0, 0}};  // becomes +inf
  row.adjustments = {{0, 100.0F}};
  row.mask = {0b110};
  EXPECT_EQ(Run({row})[0].token, 1);
}

// What a beam search looks at: raw logprobs of what adjustments and the mask leave.
TEST_P(SampleTest, CandidatesAreWhatTheMaskLeavesAndAreNotRenormalised) {
  SampleRowCase row = Row({1.0F, 3.0F, 3.0F, 0.0F, 2.0F});
  row.forced = SampleArgs::kCandidateRow;
  row.temperature = 0;
  row.num_logprobs = 4;
  row.mask = {0b11001};
  row.adjustments = {{3, 0.5F}};
  const double total = std::log(std::exp(1.0) + 2 * std::exp(3.0) + 1 + std::exp(2.0));
  const SampledRow banned = Run({row})[0];
  EXPECT_EQ(banned.token, 4);
  EXPECT_EQ(banned.rank, 3);
  EXPECT_EQ(banned.top_tokens, (std::vector<int32_t>{4, 0, 3, -1}));
  EXPECT_NEAR(banned.top_logprobs[0], 2 - total, kLogprobTolerance);
  EXPECT_NEAR(banned.top_logprobs[2], 0.5 - total, kLogprobTolerance);
  EXPECT_EQ(banned.top_logprobs[3], -kInfinity);
  row.mask_penalty = 1.5F;
  const SampledRow penalised = Run({row})[0];
  EXPECT_EQ(penalised.token, 4);
  EXPECT_EQ(penalised.top_tokens, (std::vector<int32_t>{4, 1, 2, 0}));
  EXPECT_NEAR(penalised.top_logprobs[1], 1.5 - total, kLogprobTolerance);
  row.mask = {0};
  EXPECT_EQ(Run({row})[0].token, 1) << "a penalty leaves something";
  row.mask_penalty = kInfinity;
  const SampledRow nothing = Run({row})[0];
  EXPECT_EQ(nothing.token, -1);
  EXPECT_EQ(nothing.logprob, -kInfinity);
  EXPECT_EQ(nothing.top_tokens, (std::vector<int32_t>{-1, -1, -1, -1}));
}

TEST(SampleRowTest, LeavesTheLogitsAsTheyWere) {
  ForSeeds(20, [](Random& random) {
    SampleRowCase row = RandomRow(random, 1000);
    row.num_logprobs = 3;
    row.adjustments.emplace_back(7, 1.0F);
    row.adjustments.emplace_back(7, -kInfinity);
    const SampledRow once = SampleByRow({row})[0];
    const std::vector<SampledRow> twice = SampleByRow({row, row});
    ExpectSame({once, once}, twice);
  });
}

// A request draws the same token alone, in a batch, and in any row of it.
TEST_P(SampleTest, ARowDoesNotDependOnTheOthers) {
  ForSeeds(5, [&](Random& random) {
    std::vector<SampleRowCase> rows;
    for (int n = 0; n < 6; ++n) rows.push_back(RandomRow(random, 777));
    for (SampleRowCase& row : rows) row.num_logprobs = 5;
    const std::vector<SampledRow> together = Run(rows);
    for (size_t n = 0; n < rows.size(); ++n) {
      const SampledRow alone = Run({rows[n]})[0];
      EXPECT_EQ(alone.token, together[n].token);
      EXPECT_EQ(alone.logprob, together[n].logprob);
      EXPECT_EQ(alone.top_logprobs, together[n].top_logprobs);
    }
  });
}

}  // namespace
}  // namespace tessera::test
