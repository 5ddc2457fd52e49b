#include "engine/kv/block_pool.h"

#include <gtest/gtest.h>

#include <random>
#include <vector>

namespace tessera {
namespace {

BlockHash HashNumber(int n) {
  BlockHash hash{};
  hash[0] = static_cast<uint8_t>(n);
  hash[1] = static_cast<uint8_t>(n >> 8);
  return hash;
}

TEST(BlockPool, CountsAddUp) {
  BlockPool pool(3);
  EXPECT_EQ(pool.num_free(), 3);
  const BlockId a = *pool.Allocate();
  const BlockId b = *pool.Allocate();
  EXPECT_NE(a, b);
  EXPECT_EQ(pool.num_used(), 2);
  pool.Publish(a, HashNumber(1));
  pool.Unref(a);
  pool.Unref(b);
  EXPECT_EQ(pool.num_used(), 0);
  EXPECT_EQ(pool.num_cached(), 1);
  EXPECT_EQ(pool.num_free(), 2);
  EXPECT_TRUE(pool.CheckIntegrity().ok());
}

TEST(BlockPool, EmptyPoolGivesNothing) {
  BlockPool pool(1);
  ASSERT_TRUE(pool.Allocate().has_value());
  EXPECT_FALSE(pool.Allocate().has_value());
  EXPECT_FALSE(BlockPool(0).Allocate().has_value());
}

TEST(BlockPool, SharedBlockStaysUntilTheLastReference) {
  BlockPool pool(1);
  const BlockId a = *pool.Allocate();
  pool.Ref(a);
  pool.Unref(a);
  EXPECT_FALSE(pool.Allocate().has_value());
  pool.Unref(a);
  EXPECT_TRUE(pool.Allocate().has_value());
}

TEST(BlockPool, CachedBlockIsFoundAndRevived) {
  BlockPool pool(2);
  const BlockId a = *pool.Allocate();
  pool.Publish(a, HashNumber(7));
  pool.Unref(a);
  ASSERT_EQ(pool.Find(HashNumber(7)), a);
  EXPECT_FALSE(pool.Find(HashNumber(8)).has_value());
  pool.Ref(a);
  EXPECT_EQ(pool.num_used(), 1);
  EXPECT_EQ(pool.num_cached(), 0);
  EXPECT_TRUE(pool.CheckIntegrity().ok());
}

TEST(BlockPool, EvictsTheCachedBlockUnusedForLongest) {
  BlockPool pool(3);
  std::vector<BlockId> blocks;
  for (int i = 0; i < 3; ++i) {
    blocks.push_back(*pool.Allocate());
    pool.Publish(blocks[i], HashNumber(i));
  }
  pool.Unref(blocks[1]);
  pool.Unref(blocks[0]);
  pool.Unref(blocks[2]);
  pool.Ref(blocks[1]);  // used again: now the youngest
  pool.Unref(blocks[1]);
  EXPECT_EQ(pool.Allocate(), blocks[0]);
  EXPECT_FALSE(pool.Find(HashNumber(0)).has_value());
  EXPECT_EQ(pool.Allocate(), blocks[2]);
  EXPECT_EQ(pool.Allocate(), blocks[1]);
  EXPECT_TRUE(pool.CheckIntegrity().ok());
}

TEST(BlockPool, FreeBlocksGoBeforeCachedOnes) {
  BlockPool pool(2);
  const BlockId a = *pool.Allocate();
  pool.Publish(a, HashNumber(1));
  pool.Unref(a);
  EXPECT_NE(pool.Allocate(), a);
  EXPECT_TRUE(pool.Find(HashNumber(1)).has_value());
}

TEST(BlockPool, SecondBlockWithTheSameContentStaysPrivate) {
  BlockPool pool(2);
  const BlockId a = *pool.Allocate();
  const BlockId b = *pool.Allocate();
  pool.Publish(a, HashNumber(1));
  pool.Publish(b, HashNumber(1));
  EXPECT_EQ(pool.Find(HashNumber(1)), a);
  pool.Unref(b);
  EXPECT_EQ(pool.num_free(), 1);
  EXPECT_TRUE(pool.CheckIntegrity().ok());
}

TEST(BlockPoolDeathTest, UnrefOfAFreeBlockIsABug) {
  BlockPool pool(1);
  const BlockId a = *pool.Allocate();
  pool.Unref(a);
  EXPECT_DEATH(pool.Unref(a), "CHECK failed");
}

TEST(BlockPool, RandomHistoryKeepsIntegrity) {
  std::mt19937 random(20);
  BlockPool pool(16);
  std::vector<BlockId> held;
  for (int i = 0; i < 20000; ++i) {
    const auto choice = random() % 4;
    if (choice == 0) {
      if (const auto block = pool.Allocate()) held.push_back(*block);
    } else if (choice == 1 && !held.empty()) {
      const size_t at = random() % held.size();
      pool.Unref(held[at]);
      held.erase(held.begin() + static_cast<std::ptrdiff_t>(at));
    } else if (choice == 2 && !held.empty()) {
      pool.Publish(held[random() % held.size()], HashNumber(static_cast<int>(random() % 40)));
    } else if (const auto block = pool.Find(HashNumber(static_cast<int>(random() % 40)))) {
      pool.Ref(*block);
      held.push_back(*block);
    }
    ASSERT_TRUE(pool.CheckIntegrity().ok()) << pool.CheckIntegrity() << " at " << i;
  }
  for (BlockId block : held) pool.Unref(block);
  EXPECT_EQ(pool.num_used(), 0);
  EXPECT_TRUE(pool.CheckIntegrity().ok());
}

}  // namespace
}  // namespace tessera
