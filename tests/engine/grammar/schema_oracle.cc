// Says which documents a schema accepts, and writes some: for tests against other validators.
//
// Reads lines {"schema": "<text>", "documents": ["<text>", …]}; answers each with a line, "refused"
// and why, or a 0 or 1 per document. With "draw": [0, …] instead it writes a JSON array of
// documents that were drawn token by token at random, one per entry, with that seed and few tokens.
#include <iostream>
#include <random>
#include <string>
#include <vector>

#include "engine/grammar/json_tree.h"
#include "engine/grammar/structure_state.h"
#include "kernels/core/bit_mask.h"
#include "tests/engine/grammar/byte_tokens.h"

namespace tessera {
namespace {

using grammar::JsonNode;

std::string Draw(const StructureParams& params, const TestVocabulary& vocabulary, uint32_t seed) {
  std::mt19937 random(seed);
  const ReasoningParams reasoning;
  StructureState state(params, reasoning, {});
  const auto limit = static_cast<int32_t>(params.structure->shortest_tokens() + random() % 80);
  std::string text;
  for (int32_t left = limit; left > 0; --left) {
    const TokenMask* mask = state.Mask(left);
    std::vector<int32_t> allowed;
    for (int32_t id = 0; id <= vocabulary.end_token(); ++id) {
      if (IsInMask(mask->words().data(), id)) allowed.push_back(id);
    }
    if (allowed.empty()) return "an empty mask behind " + text;
    const int32_t token = allowed[random() % allowed.size()];
    text += vocabulary.TextOf(token);
    const StructureState::Verdict verdict = state.Push(token);
    if (verdict == StructureState::Verdict::kBroken) return "broken behind " + text;
    if (verdict == StructureState::Verdict::kEnds) break;
  }
  return text;
}

std::string Answer(const JsonNode& request, const TestVocabulary& vocabulary,
                   const GrammarTokens& tokens) {
  const auto structure = Structure::Compile(
      {.kind = StructureSpec::Kind::kJsonSchema, .text = request.Find("schema")->text}, tokens);
  if (!structure.ok()) return "refused " + std::string(structure.status().message());
  std::string answer;
  if (const JsonNode* seeds = request.Find("draw")) {
    for (const JsonNode* seed : seeds->items) {
      const std::string text = Draw({.structure = *structure}, vocabulary, std::stoul(seed->text));
      answer += (answer.empty() ? "[" : ",") + grammar::QuotedJson(text);
    }
    return answer + "]";
  }
  for (const JsonNode* document : request.Find("documents")->items) {
    answer += Accepts(**structure, document->text) ? '1' : '0';
  }
  return answer;
}

}  // namespace
}  // namespace tessera

int main() {
  const tessera::TestVocabulary vocabulary{.words = {"{\"", "\":", "\": ", ", \"", "\", \"", "true",
                                                     "12", "\"}", "foo", "bar", "é", "[["}};
  const tessera::GrammarTokens tokens = vocabulary.Tokens();
  std::string line;
  while (std::getline(std::cin, line)) {
    tessera::grammar::JsonTree tree;
    const auto request = tessera::grammar::ReadJson(line, &tree);
    if (!request.ok()) {
      std::cerr << request.status() << '\n';
      return 2;
    }
    std::cout << tessera::Answer(**request, vocabulary, tokens) << std::endl;
  }
  return 0;
}
