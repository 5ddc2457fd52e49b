// The real Qwen3 tokenizer and its goldens, for tests and benchmarks.
#ifndef TESSERA_TESTS_ENGINE_TEXT_REFERENCE_TOKENIZER_H_
#define TESSERA_TESTS_ENGINE_TEXT_REFERENCE_TOKENIZER_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "engine/text/tokenizer.h"

namespace tessera {

// The unpacked tokenizer.json and the current tokenizer_config.json of the Qwen3 release.
const TokenizerSources& ReferenceTokenizerSources();

// Parsed once per process. Ends the program with a message when the data is missing.
std::shared_ptr<const Tokenizer> ReferenceTokenizer();

struct TokenizerGolden {
  std::string text;
  std::vector<int32_t> ids;
};

std::vector<TokenizerGolden> ReadTokenizerGoldens();

std::string ReadTestFile(const std::string& path);

}  // namespace tessera

#endif  // TESSERA_TESTS_ENGINE_TEXT_REFERENCE_TOKENIZER_H_
