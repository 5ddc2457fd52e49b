#include "engine/kv/kv_cache_manager.h"

#include <gtest/gtest.h>

#include <numeric>
#include <set>
#include <vector>

namespace tessera {
namespace {

std::vector<int32_t> Tokens(int count, int first = 100) {
  std::vector<int32_t> tokens(count);
  std::iota(tokens.begin(), tokens.end(), first);
  return tokens;
}

KvCacheManager Manager(int32_t num_blocks, bool prefix_cache = true) {
  return KvCacheManager(
      {.num_blocks = num_blocks, .block_size = 4, .enable_prefix_cache = prefix_cache});
}

// A sequence that has computed all of `tokens` and ended.
void RunAndRelease(KvCacheManager* kv, const std::vector<int32_t>& tokens,
                   std::string_view salt = "") {
  SequenceBlocks sequence;
  kv->Attach(tokens, salt, &sequence);
  ASSERT_TRUE(kv->Reserve(static_cast<int32_t>(tokens.size()), &sequence));
  kv->Commit(tokens, static_cast<int32_t>(tokens.size()), salt, &sequence);
  kv->Release(&sequence);
}

TEST(BlockHasher, ChainsDependOnKeySaltAndEveryToken) {
  const BlockHasher hasher(BlockHash{1});
  const BlockHasher other(BlockHash{2});
  const std::vector<int32_t> tokens = Tokens(4);
  std::vector<int32_t> changed = tokens;
  changed[3] ^= 1;
  const BlockHash root = hasher.Root("");
  const std::set<BlockHash> distinct = {root,
                                        hasher.Root("a"),
                                        other.Root(""),
                                        hasher.Next(root, tokens),
                                        hasher.Next(root, changed),
                                        hasher.Next(hasher.Root("a"), tokens),
                                        hasher.Next(hasher.Next(root, tokens), tokens)};
  EXPECT_EQ(distinct.size(), 7U);
  EXPECT_EQ(hasher.Next(root, tokens), BlockHasher(BlockHash{1}).Next(root, tokens));
  EXPECT_NE(BlockHasher::RandomKey(), BlockHasher::RandomKey());
}

TEST(BlockHasher, IsSha256OfHeadAndData) {
  // Computed with Python's hashlib.sha256(bytes(32) + b'abc').
  const BlockHasher hasher(BlockHash{});
  const BlockHash root = hasher.Root("abc");
  const std::vector<uint8_t> head(root.begin(), root.begin() + 4);
  EXPECT_EQ(head, (std::vector<uint8_t>{0x36, 0x5A, 0xA7, 0xD8}));
}

TEST(KvCacheManager, HitsWholeBlocksOfACommonBeginning) {
  KvCacheManager kv = Manager(16);
  RunAndRelease(&kv, Tokens(10));
  std::vector<int32_t> tokens = Tokens(10);
  tokens[6] = 1;  // differs in the second block
  SequenceBlocks sequence;
  EXPECT_EQ(kv.Attach(tokens, "", &sequence), 4);
  EXPECT_EQ(sequence.blocks.size(), 1U);
  kv.Release(&sequence);
  EXPECT_TRUE(kv.CheckIntegrity().ok());
}

TEST(KvCacheManager, NeverCoversTheWholePrompt) {
  KvCacheManager kv = Manager(16);
  RunAndRelease(&kv, Tokens(12));
  for (const auto& [length, hit] : std::vector<std::pair<int, int>>{
           {1, 0}, {4, 0}, {5, 4}, {8, 4}, {9, 8}, {12, 8}, {13, 12}, {14, 12}}) {
    SequenceBlocks sequence;
    EXPECT_EQ(kv.Attach(Tokens(length), "", &sequence), hit) << length;
    kv.Release(&sequence);
  }
}

TEST(KvCacheManager, TenantsDoNotMeet) {
  KvCacheManager kv = Manager(16);
  RunAndRelease(&kv, Tokens(12), "a");
  SequenceBlocks stranger;
  EXPECT_EQ(kv.Attach(Tokens(12), "b", &stranger), 0);
  SequenceBlocks colleague;
  EXPECT_EQ(kv.Attach(Tokens(12), "a", &colleague), 8);
}

TEST(KvCacheManager, DisabledCacheFindsNothing) {
  KvCacheManager kv = Manager(16, false);
  RunAndRelease(&kv, Tokens(12));
  SequenceBlocks sequence;
  EXPECT_EQ(kv.Attach(Tokens(12), "", &sequence), 0);
  EXPECT_EQ(kv.pool().num_cached(), 0);
}

TEST(KvCacheManager, OnlyComputedFullBlocksArePublished) {
  KvCacheManager kv = Manager(16);
  const std::vector<int32_t> tokens = Tokens(12);
  SequenceBlocks writer;
  ASSERT_TRUE(kv.Reserve(12, &writer));
  kv.Commit(tokens, 7, "", &writer);
  SequenceBlocks reader;
  EXPECT_EQ(kv.Attach(tokens, "", &reader), 4);
  kv.Release(&reader);
  kv.Commit(tokens, 8, "", &writer);
  EXPECT_EQ(kv.Attach(tokens, "", &reader), 8);
  kv.Release(&reader);
  kv.Release(&writer);
  EXPECT_EQ(kv.pool().num_used(), 0);
}

TEST(KvCacheManager, ReserveIsAllOrNothing) {
  KvCacheManager kv = Manager(4);
  SequenceBlocks a;
  SequenceBlocks b;
  ASSERT_TRUE(kv.Reserve(9, &a));  // 3 blocks
  EXPECT_FALSE(kv.Reserve(5, &b));
  EXPECT_TRUE(b.blocks.empty());
  EXPECT_TRUE(kv.Reserve(4, &b));
  EXPECT_TRUE(kv.Reserve(12, &a));  // fits into what it has
  EXPECT_FALSE(kv.Reserve(13, &a));
  kv.Release(&a);
  EXPECT_TRUE(kv.Reserve(16, &b));
}

TEST(KvCacheManager, BeginningsOutliveEnds) {
  KvCacheManager kv = Manager(4);
  RunAndRelease(&kv, Tokens(16));
  SequenceBlocks other;
  ASSERT_TRUE(kv.Reserve(8, &other));  // evicts two blocks
  SequenceBlocks sequence;
  EXPECT_EQ(kv.Attach(Tokens(16), "", &sequence), 8);
}

}  // namespace
}  // namespace tessera
