// Reads tokenizer.json and tokenizer_config.json of a Hugging Face model folder into plain tables.
// Exactly the pipeline of the Qwen family is accepted (NFC, the Qwen split pattern, byte-level BPE,
// added tokens without stripping rules); anything else is refused by name rather than tokenised
// differently from how the model was trained.
#ifndef TESSERA_ENGINE_TEXT_TOKENIZER_FILE_H_
#define TESSERA_ENGINE_TEXT_TOKENIZER_FILE_H_

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/text/byte_pair_encoder.h"

namespace tessera {

struct AddedToken {
  int32_t id = 0;
  std::string content;   // UTF-8, never empty
  bool special = false;  // left out of decoded text on request
  // Looked for in normalised text, what the tokens without this have left of it. Tokens that were
  // added by hand have it, the model's own have not.
  bool normalized = false;
};

struct TokenizerDefinition {
  // Token i is token_bytes[token_offsets[i], token_offsets[i + 1]); empty for an id that neither
  // table defines. token_offsets has one entry more than there are ids.
  std::string token_bytes;
  std::vector<uint32_t> token_offsets;
  std::array<int32_t, 256> byte_ids{};   // the token of every single byte
  std::vector<BytePairMerge> merges;     // by rank
  std::vector<AddedToken> added_tokens;  // by ascending id; ids and contents are unique
  int32_t eos_token_id = -1;             // of tokenizer_config.json's eos_token
};

// The two files as they were read; names are for error messages.
struct TokenizerSources {
  std::string tokenizer_name = "tokenizer.json";
  std::string tokenizer_json;
  std::string config_name = "tokenizer_config.json";
  std::string config_json;  // empty: the folder has none
};

// Merges are accepted as ["a", "b"] and as "a b"; a missing ignore_merges means false. The added
// tokens of both files are merged; where they disagree tokenizer_config.json wins. Errors are
// InvalidArgument, one line that names the file and the key.
absl::StatusOr<TokenizerDefinition> ParseTokenizerDefinition(const TokenizerSources& sources);

// Reads `model_dir`/tokenizer.json and, where it exists, `model_dir`/tokenizer_config.json. A file
// that is missing, unreadable or larger than 256 MiB is an error that names it.
absl::StatusOr<TokenizerDefinition> LoadTokenizerDefinition(const std::string& model_dir);

}  // namespace tessera

#endif  // TESSERA_ENGINE_TEXT_TOKENIZER_FILE_H_
