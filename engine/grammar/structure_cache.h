// Compiled structures that requests share.
#ifndef TESSERA_ENGINE_GRAMMAR_STRUCTURE_CACHE_H_
#define TESSERA_ENGINE_GRAMMAR_STRUCTURE_CACHE_H_

#include <cstdint>
#include <functional>
#include <list>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "engine/grammar/structure.h"
#include "kernels/core/mutex.h"

namespace tessera {

// Any number of threads. What equal specs compile to, refusals included, is kept, the least
// recently used dropped first; threads that want the same one wait for the first of them.
class StructureCache {
 public:
  static constexpr size_t kMaxEntries = 256;
  static constexpr size_t kMaxBytes = size_t{256} << 20;

  // `make_tokens` is called once, when the first structure is wanted: it takes a while.
  explicit StructureCache(std::function<GrammarTokens()> make_tokens)
      : make_tokens_(std::move(make_tokens)) {}

  // Errors as of Structure::Compile.
  absl::StatusOr<std::shared_ptr<const Structure>> Get(const StructureSpec& spec);

  // The id of a token that is no bytes by its text.
  std::optional<int32_t> FindToken(std::string_view text) { return Tokens().find_token(text); }

 private:
  using Result = absl::StatusOr<std::shared_ptr<const Structure>>;
  struct Entry {
    std::string key;
    std::optional<Result> result;  // nothing: under way
    size_t bytes = 0;
  };
  using Entries = std::list<std::shared_ptr<Entry>>;

  const GrammarTokens& Tokens();
  void Shrink() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const std::function<GrammarTokens()> make_tokens_;
  Mutex tokens_mutex_;
  std::unique_ptr<const GrammarTokens> tokens_ ABSL_GUARDED_BY(tokens_mutex_);
  Mutex mutex_;
  CondVar done_;
  Entries entries_ ABSL_GUARDED_BY(mutex_);  // most recently used first
  absl::flat_hash_map<std::string, Entries::iterator> by_key_ ABSL_GUARDED_BY(mutex_);
  size_t bytes_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace tessera

#endif  // TESSERA_ENGINE_GRAMMAR_STRUCTURE_CACHE_H_
