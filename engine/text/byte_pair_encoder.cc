#include "engine/text/byte_pair_encoder.h"

#include <algorithm>
#include <functional>
#include <queue>
#include <utility>

namespace tessera {
namespace {

// Up to this length a linear search for the best pair beats a heap.
constexpr size_t kLongestShortPiece = 48;

// A pair that may be joined: rank << 32 | index of its left symbol, so that the smallest is the one
// to join next. The heap also holds outdated entries; they are recognised when they surface.
using Candidate = uint64_t;

Candidate MakeCandidate(uint32_t rank, uint32_t left) {
  return static_cast<uint64_t>(rank) << 32 | left;
}

// A symbol in the doubly linked list of a long piece.
struct Symbol {
  int32_t id;  // kJoined once it is part of the symbol before it
  uint32_t previous;
  uint32_t next;
};
constexpr int32_t kJoined = -1;
constexpr uint32_t kNone = UINT32_MAX;

}  // namespace

BytePairEncoder::BytePairEncoder(const std::array<int32_t, 256>& byte_ids,
                                 const std::vector<BytePairMerge>& merges)
    : byte_ids_(byte_ids) {
  int bits = 4;
  while ((size_t{5} << bits) / 8 < merges.size() + 1) ++bits;
  slots_.resize(size_t{1} << bits);
  shift_ = 64 - bits;
  for (size_t rank = 0; rank < merges.size(); ++rank) {
    const BytePairMerge& merge = merges[rank];
    const uint64_t pair = PairKey(merge.left, merge.right);
    FindSlot(pair) = {pair, static_cast<uint32_t>(rank), merge.result};
  }
}

BytePairEncoder::Slot& BytePairEncoder::FindSlot(uint64_t pair) {
  size_t i = HomeSlot(pair);
  while (slots_[i].rank != kNoRank && slots_[i].pair != pair) i = (i + 1) & (slots_.size() - 1);
  return slots_[i];
}

BytePairEncoder::Ranked BytePairEncoder::Find(int32_t left, int32_t right) const {
  const uint64_t pair = PairKey(left, right);
  size_t i = HomeSlot(pair);
  while (slots_[i].pair != pair) {
    if (slots_[i].rank == kNoRank) return {};
    i = (i + 1) & (slots_.size() - 1);
  }
  return {slots_[i].rank, slots_[i].result};
}

void BytePairEncoder::Encode(std::string_view piece, std::vector<int32_t>* ids) const {
  if (piece.size() == 1) {
    ids->push_back(byte_ids_[static_cast<uint8_t>(piece[0])]);
  } else if (piece.size() <= kLongestShortPiece) {
    EncodeShort(piece, ids);
  } else {
    EncodeLong(piece, ids);
  }
}

void BytePairEncoder::EncodeShort(std::string_view piece, std::vector<int32_t>* ids) const {
  if (piece.empty()) return;
  int32_t symbols[kLongestShortPiece];
  Ranked pairs[kLongestShortPiece];  // pairs[i] joins symbols i and i + 1
  size_t count = piece.size();
  for (size_t i = 0; i < count; ++i) symbols[i] = byte_ids_[static_cast<uint8_t>(piece[i])];
  for (size_t i = 0; i + 1 < count; ++i) pairs[i] = Find(symbols[i], symbols[i + 1]);
  while (count > 1) {
    size_t best = 0;
    for (size_t i = 1; i + 1 < count; ++i) {
      if (pairs[i].rank < pairs[best].rank) best = i;
    }
    if (pairs[best].rank == kNoRank) break;
    symbols[best] = pairs[best].result;
    std::copy(symbols + best + 2, symbols + count, symbols + best + 1);
    std::copy(pairs + best + 1, pairs + count - 1, pairs + best);
    --count;
    if (best + 1 < count) pairs[best] = Find(symbols[best], symbols[best + 1]);
    if (best > 0) pairs[best - 1] = Find(symbols[best - 1], symbols[best]);
  }
  ids->insert(ids->end(), symbols, symbols + count);
}

void BytePairEncoder::EncodeLong(std::string_view piece, std::vector<int32_t>* ids) const {
  std::vector<Symbol> symbols(piece.size());
  for (uint32_t i = 0; i < symbols.size(); ++i) {
    symbols[i] = {byte_ids_[static_cast<uint8_t>(piece[i])], i == 0 ? kNone : i - 1, i + 1};
  }
  symbols.back().next = kNone;

  const auto pair_at = [&](uint32_t left) {
    return Find(symbols[left].id, symbols[symbols[left].next].id);
  };
  std::vector<Candidate> initial;
  for (uint32_t i = 0; i + 1 < symbols.size(); ++i) {
    if (const Ranked pair = pair_at(i); pair.rank != kNoRank)
      initial.push_back(MakeCandidate(pair.rank, i));
  }
  std::priority_queue<Candidate, std::vector<Candidate>, std::greater<>> queue(std::greater<>(),
                                                                               std::move(initial));
  const auto consider = [&](uint32_t left) {
    if (left == kNone || symbols[left].next == kNone) return;
    if (const Ranked pair = pair_at(left); pair.rank != kNoRank)
      queue.push(MakeCandidate(pair.rank, left));
  };
  while (!queue.empty()) {
    const Candidate best = queue.top();
    queue.pop();
    const auto index = static_cast<uint32_t>(best);
    Symbol& left = symbols[index];
    if (left.id == kJoined || left.next == kNone) continue;
    const Ranked pair = pair_at(index);
    if (pair.rank != best >> 32) continue;
    Symbol& right = symbols[left.next];
    left.id = pair.result;
    left.next = right.next;
    right.id = kJoined;
    if (left.next != kNone) symbols[left.next].previous = index;
    consider(left.previous);
    consider(index);
  }
  for (uint32_t i = 0; i != kNone; i = symbols[i].next) ids->push_back(symbols[i].id);
}

}  // namespace tessera
