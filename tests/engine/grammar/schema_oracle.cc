// Says which documents a schema accepts: for tests against other validators.
//
// Reads lines {"schema": "<text>", "documents": ["<text>", …]}; writes one line for each: "refused"
// and why, or a 0 or 1 per document.
#include <iostream>
#include <string>

#include "engine/grammar/json_tree.h"
#include "tests/engine/grammar/byte_tokens.h"

int main() {
  using tessera::grammar::JsonNode;
  const tessera::GrammarTokens tokens = tessera::TestVocabulary().Tokens();
  std::string line;
  while (std::getline(std::cin, line)) {
    tessera::grammar::JsonTree tree;
    const auto request = tessera::grammar::ReadJson(line, &tree);
    if (!request.ok()) {
      std::cerr << request.status() << '\n';
      return 2;
    }
    tessera::StructureSpec spec{.kind = tessera::StructureSpec::Kind::kJsonSchema};
    spec.text = (*request)->Find("schema")->text;
    const auto structure = tessera::Structure::Compile(spec, tokens);
    if (!structure.ok()) {
      std::cout << "refused " << structure.status().message() << std::endl;
      continue;
    }
    for (const JsonNode* document : (*request)->Find("documents")->items) {
      std::cout << (tessera::Accepts(**structure, document->text) ? '1' : '0');
    }
    std::cout << std::endl;
  }
  return 0;
}
