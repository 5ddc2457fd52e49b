#include "engine/text/byte_pair_encoder.h"

#include <gtest/gtest.h>

#include <random>
#include <set>
#include <string>
#include <utility>

namespace tessera {
namespace {

std::array<int32_t, 256> IdentityByteIds() {
  std::array<int32_t, 256> ids{};
  for (size_t byte = 0; byte < ids.size(); ++byte) ids[byte] = static_cast<int32_t>(byte);
  return ids;
}

// The definition, word for word: join the leftmost pair of the lowest rank until none is listed.
std::vector<int32_t> EncodeByDefinition(const std::vector<BytePairMerge>& merges,
                                        std::string_view piece) {
  std::vector<int32_t> ids;
  for (const char byte : piece) ids.push_back(static_cast<uint8_t>(byte));
  for (bool joined = true; joined;) {
    joined = false;
    for (const BytePairMerge& merge : merges) {
      for (size_t i = 0; i + 1 < ids.size() && !joined; ++i) {
        if (ids[i] != merge.left || ids[i + 1] != merge.right) continue;
        ids[i] = merge.result;
        ids.erase(ids.begin() + static_cast<ptrdiff_t>(i) + 1);
        joined = true;
      }
      if (joined) break;
    }
  }
  return ids;
}

TEST(BytePairEncoderProperty, EqualsTheDefinition) {
  for (uint64_t seed = 0; seed < 1500; ++seed) {
    std::mt19937_64 random(seed);
    const int32_t letters = 1 + static_cast<int32_t>(random() % 4);
    std::vector<int32_t> known;
    for (int32_t i = 0; i < letters; ++i) known.push_back('a' + i);
    std::vector<BytePairMerge> merges;
    std::set<std::pair<int32_t, int32_t>> pairs;
    for (size_t i = 0, count = random() % 40; i < count; ++i) {
      const int32_t left = known[random() % known.size()];
      const int32_t right = known[random() % known.size()];
      if (!pairs.emplace(left, right).second) continue;
      merges.push_back({left, right, 256 + static_cast<int32_t>(merges.size())});
      known.push_back(merges.back().result);
    }
    const BytePairEncoder encoder(IdentityByteIds(), merges);
    for (const size_t length : {1u, 2u, 7u, 47u, 48u, 49u, 50u, 130u}) {
      std::string piece;
      for (size_t i = 0; i < length; ++i) {
        piece.push_back(static_cast<char>('a' + random() % static_cast<uint64_t>(letters)));
      }
      std::vector<int32_t> ids;
      encoder.Encode(piece, &ids);
      ASSERT_EQ(ids, EncodeByDefinition(merges, piece)) << "seed " << seed << " " << piece;
    }
  }
}

TEST(BytePairEncoder, AppendsAndAcceptsEmptyPieces) {
  const BytePairEncoder encoder(IdentityByteIds(), {});
  std::vector<int32_t> ids = {7};
  encoder.Encode("", &ids);
  encoder.Encode("\xFF", &ids);
  encoder.Encode("ab", &ids);
  EXPECT_EQ(ids, (std::vector<int32_t>{7, 255, 'a', 'b'}));
}

}  // namespace
}  // namespace tessera
