#include "engine/kv/block_pool.h"

#include "absl/strings/str_cat.h"
#include "kernels/core/status_macros.h"

namespace tessera {

BlockPool::BlockPool(int32_t num_blocks) {
  TESSERA_CHECK(num_blocks >= 0);
  blocks_.resize(num_blocks);
  free_.reserve(num_blocks);
  for (int32_t i = num_blocks - 1; i >= 0; --i) free_.push_back(i);
}

BlockPool::Block& BlockPool::At(BlockId id) {
  const auto index = static_cast<int32_t>(id);
  TESSERA_CHECK(index >= 0 && index < num_blocks());
  return blocks_[index];
}

const BlockPool::Block& BlockPool::At(BlockId id) const {
  return const_cast<BlockPool*>(this)->At(id);
}

std::optional<BlockId> BlockPool::Allocate() {
  int32_t index = kNone;
  if (!free_.empty()) {
    index = free_.back();
    free_.pop_back();
  } else if (oldest_cached_ != kNone) {
    index = oldest_cached_;
    UnlinkCached(index);
    by_hash_.erase(blocks_[index].hash);
    blocks_[index].published = false;
  } else {
    return std::nullopt;
  }
  blocks_[index].references = 1;
  return static_cast<BlockId>(index);
}

void BlockPool::Ref(BlockId id) {
  Block& block = At(id);
  TESSERA_CHECK(block.references > 0 || block.published);
  if (block.references++ == 0) UnlinkCached(static_cast<int32_t>(id));
}

void BlockPool::Unref(BlockId id) {
  Block& block = At(id);
  TESSERA_CHECK(block.references > 0);
  if (--block.references > 0) return;
  if (block.published) {
    LinkCached(static_cast<int32_t>(id));
  } else {
    free_.push_back(static_cast<int32_t>(id));
  }
}

std::optional<BlockId> BlockPool::Find(const BlockHash& hash) const {
  const auto it = by_hash_.find(hash);
  if (it == by_hash_.end()) return std::nullopt;
  return static_cast<BlockId>(it->second);
}

void BlockPool::Publish(BlockId id, const BlockHash& hash) {
  Block& block = At(id);
  TESSERA_CHECK(block.references > 0);
  if (block.published) return;
  if (!by_hash_.emplace(hash, static_cast<int32_t>(id)).second) return;
  block.hash = hash;
  block.published = true;
}

void BlockPool::LinkCached(int32_t index) {
  Block& block = blocks_[index];
  block.previous = newest_cached_;
  block.next = kNone;
  (newest_cached_ == kNone ? oldest_cached_ : blocks_[newest_cached_].next) = index;
  newest_cached_ = index;
  ++num_cached_;
}

void BlockPool::UnlinkCached(int32_t index) {
  Block& block = blocks_[index];
  (block.previous == kNone ? oldest_cached_ : blocks_[block.previous].next) = block.next;
  (block.next == kNone ? newest_cached_ : blocks_[block.next].previous) = block.previous;
  block.previous = kNone;
  block.next = kNone;
  --num_cached_;
}

absl::Status BlockPool::CheckIntegrity() const {
  std::vector<int32_t> listed(blocks_.size(), 0);
  for (int32_t index : free_) {
    ++listed[index];
    if (blocks_[index].references != 0 || blocks_[index].published) {
      return absl::InternalError(absl::StrCat("free block ", index, " is used or published"));
    }
  }
  int32_t cached = 0;
  for (int32_t i = oldest_cached_; i != kNone && cached <= num_blocks(); i = blocks_[i].next) {
    ++listed[i];
    ++cached;
    if (blocks_[i].references != 0 || !blocks_[i].published) {
      return absl::InternalError(absl::StrCat("cached block ", i, " is used or unpublished"));
    }
  }
  if (cached != num_cached_) return absl::InternalError("the list of cached blocks is broken");
  size_t published = 0;
  for (int32_t i = 0; i < num_blocks(); ++i) {
    const Block& block = blocks_[i];
    if (listed[i] != (block.references == 0 ? 1 : 0)) {
      return absl::InternalError(absl::StrCat("block ", i, " with ", block.references,
                                              " references is listed ", listed[i], " times"));
    }
    if (!block.published) continue;
    ++published;
    const auto it = by_hash_.find(block.hash);
    if (it == by_hash_.end() || it->second != i) {
      return absl::InternalError(absl::StrCat("published block ", i, " cannot be found"));
    }
  }
  if (published != by_hash_.size()) return absl::InternalError("a hash names no block");
  return absl::OkStatus();
}

}  // namespace tessera
