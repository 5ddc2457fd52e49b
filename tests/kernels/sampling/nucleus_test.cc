#include "kernels/sampling/nucleus.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "tests/kernels/op_test.h"

namespace tessera::sampling {
namespace {

using test::ForSeeds;
using test::Random;

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// Sorts everything and adds up one by one.
int64_t CountKept(const LogitRow& row, int64_t top_k, double top_p,
                  const std::vector<Candidate>& sorted) {
  int64_t kept = top_k > 0 ? std::min(top_k, row.size()) : row.size();
  if (!(top_p < 1.0)) return kept;
  double total = 0;
  for (int64_t i = 0; i < kept; ++i) total += row.WeightOf(sorted[i].logit);
  double prefix = row.WeightOf(sorted[0].logit);
  int64_t count = 1;
  while (count < kept && prefix < top_p * total) prefix += row.WeightOf(sorted[count++].logit);
  return count;
}

void ExpectLastKept(const LogitRow& row, int64_t top_k, double top_p) {
  std::vector<Candidate> sorted;
  for (int64_t block = 0; block < row.blocks(); ++block) {
    row.ForBlock(block, [&](const Candidate& candidate) { sorted.push_back(candidate); });
  }
  std::sort(sorted.begin(), sorted.end(), Before);
  const int64_t kept = CountKept(row, top_k, top_p, sorted);
  const Candidate last = LastKept(row, top_k, top_p);
  const auto is_kept = [&](const Candidate& candidate) { return !Before(last, candidate); };
  EXPECT_EQ(std::count_if(sorted.begin(), sorted.end(), is_kept), kept)
      << row.size() << " logits, top_k " << top_k << ", top_p " << top_p;
}

TEST(NucleusTest, CutsWhereSortingDoes) {
  ForSeeds(300, [](Random& random) {
    const int64_t size = random.OneOf({1, 2, 65, 1024, 1025, 4096, 20000});
    std::vector<float> logits = random.Normals(size, std::exp2(random.Normal(4.0F)));
    if (random.Chance(0.3)) {
      for (float& l : logits) l = std::round(l);
    }
    if (random.Chance(0.3)) {
      for (float& l : logits) l = random.Chance(0.5) ? -kInfinity : l;
      logits[0] = 1.0F;
    }
    const LogitRow raw(logits.data(), size);
    const LogitRow row = raw.DividedBy(0.1F * static_cast<float>(random.Int(1, 30)));
    for (const double top_p : {0.0, 1e-6, 0.5, 0.9, 0.999, 0.99999994, 1.0}) {
      ExpectLastKept(row, 0, top_p);
      ExpectLastKept(row, random.Int(1, size), top_p);
    }
  });
}

// Here the goal is met without any rounding, so "reached" and "not reached" are one bit apart.
TEST(NucleusTest, CutsEqualLogitsExactly) {
  const std::vector<float> logits(4096, 1.5F);
  const LogitRow row(logits.data(), 4096);
  for (const double top_p : {0.25, 0.5, 0.75}) {
    const auto kept = static_cast<int32_t>(4096 * top_p);
    EXPECT_EQ(LastKept(row, 0, top_p).id, kept - 1);
    EXPECT_EQ(LastKept(row, 0, std::nextafter(top_p, 1.0)).id, kept);
    EXPECT_EQ(LastKept(row, 2048, top_p).id, kept / 2 - 1);
    ExpectLastKept(row, 0, top_p);
  }
}

TEST(NucleusTest, TopKAloneKeepsThatMany) {
  ForSeeds(50, [](Random& random) {
    const std::vector<float> logits = random.Normals(30000, 2.0F);
    const LogitRow row(logits.data(), 30000);
    for (const int64_t top_k : {1, 20, 1024, 1025, 29999, 30000, 50000}) {
      ExpectLastKept(row, top_k, 1.0);
    }
  });
}

}  // namespace
}  // namespace tessera::sampling
