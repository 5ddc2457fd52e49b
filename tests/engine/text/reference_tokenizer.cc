#include "tests/engine/text/reference_tokenizer.h"

#include <zlib.h>

#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <sstream>

namespace tessera {
namespace {

[[noreturn]] void Die(const std::string& message) {
  std::fprintf(stderr, "%s\n", message.c_str());
  std::exit(1);  // NOLINT(concurrency-mt-unsafe): tests that cannot read their data stop
}

std::string ReadGzip(const std::string& path) {
  gzFile file = gzopen(path.c_str(), "rb");
  if (file == nullptr) Die(path + ": cannot be opened");
  std::string content;
  std::vector<char> buffer(size_t{1} << 20);
  int count = 0;
  while ((count = gzread(file, buffer.data(), static_cast<unsigned>(buffer.size()))) > 0) {
    content.append(buffer.data(), static_cast<size_t>(count));
  }
  gzclose(file);
  if (count < 0) Die(path + ": damaged");
  return content;
}

const std::string kFolder = TESSERA_TEST_DATA "/reference/tokenizer/";

}  // namespace

std::string ReadTestFile(const std::string& path) {
  std::ifstream stream(path, std::ios::binary);
  if (!stream) Die(path + ": cannot be opened");
  return {std::istreambuf_iterator<char>(stream), std::istreambuf_iterator<char>()};
}

const TokenizerSources& ReferenceTokenizerSources() {
  static const auto* const sources = [] {
    auto* read = new TokenizerSources;
    read->tokenizer_json = ReadGzip(kFolder + "tokenizer.json.gz");
    read->config_json = ReadTestFile(kFolder + "tokenizer_config.current.json");
    return read;
  }();
  return *sources;
}

std::shared_ptr<const Tokenizer> ReferenceTokenizer() {
  static const auto* const tokenizer = [] {
    auto parsed = Tokenizer::Parse(ReferenceTokenizerSources());
    if (!parsed.ok()) Die(parsed.status().ToString());
    return new std::shared_ptr<const Tokenizer>(*std::move(parsed));
  }();
  return *tokenizer;
}

std::vector<TokenizerGolden> ReadTokenizerGoldens() {
  std::istringstream lines(ReadTestFile(kFolder + "goldens.jsonl"));
  std::vector<TokenizerGolden> goldens;
  for (std::string line; std::getline(lines, line);) {
    const auto json = nlohmann::json::parse(line);
    goldens.push_back({json["text"], json["ids"]});
  }
  return goldens;
}

}  // namespace tessera
