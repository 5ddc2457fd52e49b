// What the output of a request must look like, compiled for one vocabulary.
#ifndef TESSERA_ENGINE_GRAMMAR_STRUCTURE_H_
#define TESSERA_ENGINE_GRAMMAR_STRUCTURE_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "engine/grammar/grammar.h"
#include "engine/grammar/match_space.h"
#include "engine/grammar/token_vocabulary.h"
#include "engine/types.h"
#include "kernels/core/mutex.h"

namespace tessera {

struct ToolSpec {
  std::string name;
  std::string parameters;  // JSON schema; empty: any object
};

struct StructureSpec {
  enum class Kind : uint8_t { kJsonSchema, kJsonObject, kRegex, kChoice, kGbnf, kTools };
  Kind kind = Kind::kJsonObject;
  // Schema, expression or grammar. With kTools: the schema of the answer that may come instead of
  // calls; empty: none.
  std::string text;
  std::vector<std::string> choices;  // kChoice
  bool object_only = false;          // of kTools: that answer is an object
  // kTools: the output is calls of these in `format`, one or more.
  std::vector<ToolSpec> tools;
  ToolCallFormat format = ToolCallFormat::kNone;
  bool single_call = false;

  // Distinct for specs that mean something else.
  std::string Key() const;
};

// A vocabulary and the tokens that grammars can name.
struct GrammarTokens {
  std::shared_ptr<const grammar::TokenVocabulary> vocabulary;
  // Of a token that is no bytes, by its text or by the id as text; nothing: there is none.
  std::function<std::optional<int32_t>(std::string_view)> find_token;
};

// Shared by all requests that want the same; any number of threads.
class Structure {
 public:
  // Errors: InvalidArgument, in words that follow a field's name. Takes up to the budget's time.
  static absl::StatusOr<std::shared_ptr<const Structure>> Compile(const StructureSpec& spec,
                                                                  const GrammarTokens& tokens);

  const grammar::TokenVocabulary& vocabulary() const { return *vocabulary_; }
  // Tokens that the shortest output takes.
  int64_t shortest_tokens() const { return shortest_tokens_; }
  size_t bytes() const { return grammar_->bytes; }

  // What is known of places so far. Its users take turns: the engine's thread.
  std::shared_ptr<grammar::MatchSpace> space() const;
  // A fresh one in place of `old`, which has grown too large; that lives as long as its users.
  std::shared_ptr<grammar::MatchSpace> Renew(const std::shared_ptr<grammar::MatchSpace>& old) const;

 private:
  Structure(std::shared_ptr<const grammar::Grammar> grammar,
            std::shared_ptr<const grammar::TokenVocabulary> vocabulary);

  const std::shared_ptr<const grammar::Grammar> grammar_;
  const std::shared_ptr<const grammar::TokenVocabulary> vocabulary_;
  int64_t shortest_tokens_ = 0;
  mutable Mutex mutex_;
  mutable std::shared_ptr<grammar::MatchSpace> space_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace tessera

#endif  // TESSERA_ENGINE_GRAMMAR_STRUCTURE_H_
