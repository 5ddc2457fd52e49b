#include "engine/grammar/structure_cache.h"

#include <utility>

namespace tessera {

const GrammarTokens& StructureCache::Tokens() {
  const MutexLock lock(&tokens_mutex_);
  if (tokens_ == nullptr) tokens_ = std::make_unique<const GrammarTokens>(make_tokens_());
  return *tokens_;
}

absl::StatusOr<std::shared_ptr<const Structure>> StructureCache::Get(const StructureSpec& spec) {
  const GrammarTokens& tokens = Tokens();
  std::string key = spec.Key();
  auto entry = std::make_shared<Entry>();
  {
    const MutexLock lock(&mutex_);
    const auto known = by_key_.find(key);
    if (known != by_key_.end()) {
      entries_.splice(entries_.begin(), entries_, known->second);
      entry = *known->second;
      while (!entry->result) done_.Wait(&mutex_);
      return *entry->result;
    }
    entry->key = std::move(key);
    entries_.push_front(entry);
    by_key_[entry->key] = entries_.begin();
  }
  Result result = Structure::Compile(spec, tokens);
  const MutexLock lock(&mutex_);
  entry->bytes = 2 * entry->key.size() + (result.ok() ? (*result)->bytes() : 0);
  entry->result = std::move(result);
  bytes_ += entry->bytes;
  Shrink();
  done_.SignalAll();
  return *entry->result;
}

void StructureCache::Shrink() {
  auto entry = entries_.end();
  while (entry != entries_.begin() && (entries_.size() > kMaxEntries || bytes_ > kMaxBytes)) {
    --entry;
    if (!(*entry)->result) continue;
    bytes_ -= (*entry)->bytes;
    by_key_.erase((*entry)->key);
    entry = entries_.erase(entry);
  }
}

}  // namespace tessera
