// Byte-pair encoding of one piece of text: repeatedly joins the adjacent pair with the lowest rank,
// the leftmost on ties (Sennrich et al. 2016, "Neural Machine Translation of Rare Words with
// Subword Units", section 3.2, on bytes).
#ifndef TESSERA_ENGINE_TEXT_BYTE_PAIR_ENCODER_H_
#define TESSERA_ENGINE_TEXT_BYTE_PAIR_ENCODER_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

namespace tessera {

struct BytePairMerge {
  int32_t left;
  int32_t right;
  int32_t result;
};

// Immutable; usable from any number of threads at once.
class BytePairEncoder {
 public:
  // `byte_ids[b]` is the token of the single byte b. The index of a merge is its rank; of a pair
  // listed twice the later rank counts. Ids are not negative.
  BytePairEncoder(const std::array<int32_t, 256>& byte_ids,
                  const std::vector<BytePairMerge>& merges);

  // Appends the tokens of `piece`. O(n log n) in the length of the piece.
  void Encode(std::string_view piece, std::vector<int32_t>* ids) const;

 private:
  static constexpr uint32_t kNoRank = UINT32_MAX;

  struct Slot {
    uint64_t pair = UINT64_MAX;  // left << 32 | right
    uint32_t rank = kNoRank;
    int32_t result = 0;
  };
  struct Ranked {
    uint32_t rank = kNoRank;
    int32_t result = 0;
  };

  static uint64_t PairKey(int32_t left, int32_t right) {
    return static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
  }
  size_t HomeSlot(uint64_t pair) const { return pair * 0x9E3779B97F4A7C15u >> shift_; }

  Slot& FindSlot(uint64_t pair);
  Ranked Find(int32_t left, int32_t right) const;

  void EncodeShort(std::string_view piece, std::vector<int32_t>* ids) const;
  void EncodeLong(std::string_view piece, std::vector<int32_t>* ids) const;

  std::array<int32_t, 256> byte_ids_;
  std::vector<Slot> slots_;  // open addressing with linear probing, at most 5/8 full
  int shift_ = 0;
};

}  // namespace tessera

#endif  // TESSERA_ENGINE_TEXT_BYTE_PAIR_ENCODER_H_
