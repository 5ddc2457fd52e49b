#include "parallel/experts/move_rounds.h"

#include <algorithm>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/parallel/test_random.h"

namespace tessera {
namespace {

using testing::HasSubstr;

PlacementShape RandomShape(TestRandom& random) {
  const int32_t ranks = 1 + random.Below(8);
  const int32_t per_rank = 1 + random.Below(6);
  const int32_t experts = ranks * per_rank;
  // No rank holds an expert twice, so more slots than experts are never needed.
  const int32_t spare = 1 + random.Below(std::min(4, experts - per_rank + 1));
  return {.num_experts = experts, .num_ranks = ranks, .slots_per_rank = per_rank + spare};
}

// Any valid placement that leaves `reserve` slots of every rank spare.
Placement RandomPlacement(const PlacementShape& shape, int32_t reserve, TestRandom& random) {
  std::vector<int32_t> slots(shape.num_slots(), Placement::kSpare);
  const auto put = [&](int32_t rank, int32_t expert) {
    std::vector<int32_t> spare;
    for (int32_t i = 0; i < shape.slots_per_rank; ++i) {
      const int32_t slot = rank * shape.slots_per_rank + i;
      if (slots[slot] == expert) return false;
      if (slots[slot] == Placement::kSpare) spare.push_back(slot);
    }
    if (static_cast<int32_t>(spare.size()) <= reserve) return false;
    slots[spare[random.Below(static_cast<int32_t>(spare.size()))]] = expert;
    return true;
  };
  for (int32_t expert = 0; expert < shape.num_experts; ++expert) {
    while (!put(random.Below(shape.num_ranks), expert)) {
    }
  }
  for (int32_t i = random.Below(shape.num_slots() + 1); i > 0; --i) {
    put(random.Below(shape.num_ranks), random.Below(shape.num_experts));
  }
  return *Placement::Create(shape, slots);
}

// Follows the rounds, checking everything that makes them safe; returns their number.
int32_t Follow(Placement current, const Placement& to) {
  for (int32_t rounds = 0;; ++rounds) {
    const auto round = NextRound(current, to);
    EXPECT_TRUE(round.ok()) << round.status();
    if (!round.ok()) return -1;
    if (!round->has_value()) {
      EXPECT_TRUE(SameExperts(current, to));
      return rounds;
    }
    const Placement& after = (*round)->after;  // valid: every expert has a replica, none twice
    std::vector<int32_t> loaded(to.shape().num_slots(), Placement::kSpare);
    for (const SlotChange& load : (*round)->loads) {
      EXPECT_EQ(current.ExpertOf(load.slot), Placement::kSpare) << "written while in use";
      EXPECT_EQ(current.ExpertOf(load.from_slot), load.expert);
      EXPECT_EQ(after.ExpertOf(load.slot), load.expert);
      EXPECT_EQ(loaded[load.slot], Placement::kSpare) << "written twice";
      loaded[load.slot] = load.expert;
    }
    for (int32_t slot = 0; slot < to.shape().num_slots(); ++slot) {
      const int32_t expert = after.ExpertOf(slot);
      if (expert == Placement::kSpare || expert == current.ExpertOf(slot)) continue;
      EXPECT_EQ(loaded[slot], expert) << "in use without having been loaded";
    }
    EXPECT_FALSE(after.slot_experts() == current.slot_experts()) << "a round without an effect";
    if (rounds > 2 * to.shape().num_slots() || testing::Test::HasFailure()) {
      ADD_FAILURE() << "no end after " << rounds << " rounds";
      return -1;
    }
    current = after;
  }
}

TEST(NextRoundTest, RandomPlacementsAreReachedSafely) {
  for (uint32_t seed = 1; seed <= 5000; ++seed) {
    SCOPED_TRACE(testing::Message() << "seed " << seed);
    TestRandom random(seed);
    const PlacementShape shape = RandomShape(random);
    const Placement from = RandomPlacement(shape, 1, random);
    const Placement to = RandomPlacement(shape, 1, random);
    Follow(from, to);
    if (testing::Test::HasFailure()) return;
  }
}

// What the engine does: proposals from random loads, each from where the last one led, some given
// up half through.
TEST(NextRoundTest, ProposalsFollowEachOther) {
  for (uint32_t seed = 1; seed <= 2000; ++seed) {
    SCOPED_TRACE(testing::Message() << "seed " << seed);
    TestRandom random(seed);
    const PlacementShape shape = RandomShape(random);
    Placement current = *Placement::Even(shape);
    for (int32_t i = 0; i < 4; ++i) {
      std::vector<double> loads(shape.num_experts);
      for (double& load : loads) {
        load = random.Below(5) == 0 ? random.Below(1000) : random.Below(10);
      }
      const auto to = ProposePlacement(current, loads, 1);
      ASSERT_TRUE(to.ok()) << to.status();
      Follow(current, *to);
      for (int32_t steps = random.Below(6); steps > 0; --steps) {
        const auto round = NextRound(current, *to);
        if (!round->has_value()) break;
        current = (*round)->after;
      }
      if (testing::Test::HasFailure()) return;
    }
  }
}

// Two ranks that want each other's only expert, with one spare slot each: both pass through.
TEST(NextRoundTest, ExchangesThroughSpareSlots) {
  const PlacementShape shape{.num_experts = 2, .num_ranks = 2, .slots_per_rank = 2};
  const auto from = Placement::Create(shape, {0, -1, 1, -1});
  const auto to = Placement::Create(shape, {1, -1, 0, -1});
  const auto round = NextRound(*from, *to);
  ASSERT_TRUE(round.ok() && round->has_value());
  EXPECT_THAT((*round)->after.slot_experts(), testing::ElementsAre(-1, 1, -1, 0));
  EXPECT_EQ((*round)->loads.size(), 2U);
}

TEST(NextRoundTest, NeedsSpareSlots) {
  const PlacementShape shape{.num_experts = 2, .num_ranks = 2, .slots_per_rank = 2};
  const auto full = Placement::Create(shape, {0, 1, 1, 0});
  const auto even = Placement::Even(shape);
  EXPECT_THAT(std::string(NextRound(*full, *even).status().message()), HasSubstr("spare slot"));
  EXPECT_THAT(std::string(NextRound(*even, *full).status().message()), HasSubstr("spare slot"));
  const auto other = Placement::Even({.num_experts = 2, .num_ranks = 1, .slots_per_rank = 2});
  EXPECT_FALSE(NextRound(*even, *other).ok());
  EXPECT_FALSE(NextRound(*even, *even)->has_value());
}

// A reserve keeps room for moves; experts that are well placed stay.
TEST(ProposePlacementTest, LeavesTheReserveAndKeepsWhatFits) {
  const PlacementShape shape{.num_experts = 16, .num_ranks = 4, .slots_per_rank = 6};
  const auto current = Placement::Even(shape);
  std::vector<double> loads(16, 1);
  for (int32_t e = 0; e < 4; ++e) loads[e] = 9;  // all on rank 0
  const auto proposed = ProposePlacement(*current, loads, 1);
  ASSERT_TRUE(proposed.ok());
  for (int32_t rank = 0; rank < 4; ++rank) {
    const auto held = proposed->slot_experts().subspan(rank * 6, 6);
    EXPECT_EQ(std::count(held.begin(), held.end(), Placement::kSpare), 1);
  }
  EXPECT_GT(BalanceRatio(PredictRankLoads(*proposed, loads)), 1 / 1.15);
  // Fresh packing would leave about a quarter of the experts in place.
  int32_t in_place = 0;
  for (int32_t slot = 0; slot < shape.num_slots(); ++slot) {
    const int32_t expert = proposed->ExpertOf(slot);
    if (expert != Placement::kSpare && expert == current->ExpertOf(slot)) ++in_place;
  }
  EXPECT_GE(in_place, 4);
  EXPECT_FALSE(ProposePlacement(*current, loads, 3).ok());
}

}  // namespace
}  // namespace tessera
