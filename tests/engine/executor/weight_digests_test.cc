#include "engine/executor/weight_digests.h"

#include <gtest/gtest.h>

#include <cstddef>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "engine/executor/group_messages.h"

namespace tessera {
namespace {

std::vector<std::byte> RandomBytes(size_t size, std::mt19937_64* random) {
  std::vector<std::byte> bytes(size);
  for (std::byte& byte : bytes) byte = static_cast<std::byte>((*random)());
  return bytes;
}

TEST(WeightDigestsTest, EveryByteOfEveryLengthCounts) {
  std::mt19937_64 random(7);
  for (const size_t size : {1U, 7U, 8U, 31U, 32U, 33U, 63U, 64U, 95U, 257U}) {
    std::vector<std::byte> bytes = RandomBytes(size, &random);
    const uint64_t digest = Digest(bytes);
    std::set<uint64_t> seen = {digest};
    for (size_t i = 0; i < size; ++i) {
      for (const int bit : {0, 3, 7}) {
        bytes[i] ^= static_cast<std::byte>(1 << bit);
        EXPECT_TRUE(seen.insert(Digest(bytes)).second) << size << " bytes, byte " << i;
        bytes[i] ^= static_cast<std::byte>(1 << bit);
      }
    }
    EXPECT_EQ(Digest(bytes), digest);
  }
}

// Padding, order and length are not lost.
TEST(WeightDigestsTest, OtherSequencesDiffer) {
  std::set<uint64_t> seen;
  std::vector<std::byte> zeros;
  for (int size = 0; size < 200; ++size) {
    EXPECT_TRUE(seen.insert(Digest(zeros)).second) << size;
    zeros.push_back(std::byte{0});
  }
  std::mt19937_64 random(8);
  const std::vector<std::byte> a = RandomBytes(32, &random);
  const std::vector<std::byte> b = RandomBytes(32, &random);
  std::vector<std::byte> ab = a;
  ab.insert(ab.end(), b.begin(), b.end());
  std::vector<std::byte> ba = b;
  ba.insert(ba.end(), a.begin(), a.end());
  EXPECT_NE(Digest(ab), Digest(ba));
}

TEST(WeightDigestsTest, TravelAsText) {
  const LoadReport report{.memory = {.weight_bytes = 5, .kv_block_bytes = 6},
                          .digests = {0, 1, ~uint64_t{0}, 0x0123456789abcdef}};
  const auto decoded = DecodeLoadReport(EncodeLoadReport(report));
  ASSERT_TRUE(decoded.ok()) << decoded.status();
  EXPECT_EQ(decoded->digests, report.digests);
  EXPECT_EQ(decoded->memory.weight_bytes, 5);
  for (const char* bad : {"x", "0123", "0123456789abcdefg"}) {
    EXPECT_FALSE(DecodeDigests(bad).ok()) << bad;
  }
  EXPECT_FALSE(DecodeLoadReport(EncodeMemoryReport({})).ok());
}

}  // namespace
}  // namespace tessera
