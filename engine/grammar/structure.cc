#include "engine/grammar/structure.h"

#include <utility>

#include "engine/files/message.h"
#include "engine/grammar/gbnf.h"
#include "engine/grammar/json_schema.h"
#include "engine/grammar/json_tree.h"
#include "engine/grammar/regex.h"
#include "kernels/core/status_macros.h"

namespace tessera {
namespace {

using grammar::BuildBudget;
using grammar::Fragment;
using grammar::Grammar;
using grammar::GrammarBuilder;
using grammar::Nfa;
using grammar::RuleId;

using GrammarOr = absl::StatusOr<std::shared_ptr<const Grammar>>;

GrammarOr CompileDfa(grammar::Dfa dfa, BuildBudget* budget) {
  RETURN_IF_ERROR(budget->status());
  GrammarBuilder builder(budget);
  const RuleId root = builder.Declare("root");
  builder.Define(root, std::move(dfa));
  return builder.Finish(root);
}

GrammarOr CompileSchema(const std::string& json, bool object_only, BuildBudget* budget) {
  const grammar::SchemaText schema{.json = json, .object_only = object_only};
  return grammar::CompileJsonSchemas(
      {schema}, [](absl::Span<const RuleId> roots, GrammarBuilder*) { return roots[0]; }, budget);
}

// A tag that is a token where the tokenizer has one.
Fragment Tag(std::string_view tag, const GrammarTokens& tokens, GrammarBuilder* builder, Nfa* nfa) {
  const std::optional<int32_t> token = tokens.find_token(tag);
  if (!token) return nfa->Literal(tag);
  const int32_t symbol = builder->Terminal(*token);
  return nfa->Symbols(symbol, symbol);
}

// <tool_call>\n{"name": …, "arguments": …}\n</tool_call>, one line feed between calls.
RuleId HermesCalls(const StructureSpec& spec, absl::Span<const RuleId> arguments,
                   const GrammarTokens& tokens, GrammarBuilder* builder) {
  const RuleId call = builder->Declare("call");
  {
    Nfa nfa(builder->budget());
    std::vector<Fragment> parts;
    for (size_t i = 0; i < spec.tools.size(); ++i) {
      const std::string name = grammar::QuotedJson(spec.tools[i].name);
      const Fragment head = nfa.Literal(Message("\n{\"name\": ", name, ", \"arguments\": "));
      parts.push_back(nfa.Concat(head, nfa.Call(arguments[i])));
    }
    const Fragment open = Tag("<tool_call>", tokens, builder, &nfa);
    const Fragment close = Tag("</tool_call>", tokens, builder, &nfa);
    const Fragment whole = nfa.Concat({open, nfa.Alternate(parts), nfa.Literal("}\n"), close});
    builder->Define(call, std::move(nfa), whole);
  }
  if (spec.single_call) return call;
  const RuleId calls = builder->Declare("calls");
  Nfa nfa(builder->budget());
  const Fragment more = nfa.Star(nfa.Concat(nfa.Literal("\n"), nfa.Call(call)));
  const Fragment whole = nfa.Concat(nfa.Call(call), more);
  builder->Define(calls, std::move(nfa), whole);
  return calls;
}

GrammarOr CompileTools(const StructureSpec& spec, const GrammarTokens& tokens,
                       BuildBudget* budget) {
  if (spec.format != ToolCallFormat::kHermes) {
    return absl::InvalidArgumentError("calls cannot be forced in this model's form of them");
  }
  std::vector<grammar::SchemaText> schemas;
  const bool may_answer = !spec.text.empty();
  if (may_answer) schemas.push_back({.json = spec.text, .object_only = spec.object_only});
  for (const ToolSpec& tool : spec.tools) {
    schemas.push_back({.json = tool.parameters.empty() ? "true" : tool.parameters,
                       .object_only = true,
                       .name = Message("parameters of \"", tool.name, "\": ")});
  }
  return grammar::CompileJsonSchemas(
      schemas,
      [&](absl::Span<const RuleId> documents, GrammarBuilder* builder) {
        if (!may_answer) return HermesCalls(spec, documents, tokens, builder);
        const RuleId calls = HermesCalls(spec, documents.subspan(1), tokens, builder);
        const RuleId root = builder->Declare("root");
        Nfa nfa(builder->budget());
        const Fragment whole = nfa.Alternate({nfa.Call(documents[0]), nfa.Call(calls)});
        builder->Define(root, std::move(nfa), whole);
        return root;
      },
      budget);
}

GrammarOr CompileGrammar(const StructureSpec& spec, const GrammarTokens& tokens,
                         BuildBudget* budget) {
  switch (spec.kind) {
    case StructureSpec::Kind::kJsonSchema:
      return CompileSchema(spec.text, false, budget);
    case StructureSpec::Kind::kJsonObject:
      return CompileSchema("true", true, budget);
    case StructureSpec::Kind::kRegex: {
      ASSIGN_OR_RETURN(grammar::Dfa dfa,
                       grammar::CompileRegex(spec.text, grammar::RegexMatch::kWhole, budget));
      return CompileDfa(std::move(dfa), budget);
    }
    case StructureSpec::Kind::kChoice: {
      const std::vector<std::string_view> texts(spec.choices.begin(), spec.choices.end());
      return CompileDfa(grammar::LiteralSet(texts, budget), budget);
    }
    case StructureSpec::Kind::kGbnf: {
      GrammarBuilder builder(budget);
      ASSIGN_OR_RETURN(const RuleId root,
                       grammar::ReadGbnf(spec.text, tokens.find_token, &builder));
      return builder.Finish(root);
    }
    case StructureSpec::Kind::kTools:
      break;
  }
  return CompileTools(spec, tokens, budget);
}

}  // namespace

std::string StructureSpec::Key() const {
  std::string key = Message(static_cast<int>(kind), ":", static_cast<int>(format), ":",
                            single_call ? 1 : 0, object_only ? 1 : 0);
  const auto add = [&](std::string_view part) { key += Message(":", part.size(), ":", part); };
  add(text);
  for (const std::string& choice : choices) add(choice);
  for (const ToolSpec& tool : tools) {
    add(tool.name);
    add(tool.parameters);
  }
  return key;
}

Structure::Structure(std::shared_ptr<const Grammar> grammar,
                     std::shared_ptr<const grammar::TokenVocabulary> vocabulary)
    : grammar_(std::move(grammar)), vocabulary_(std::move(vocabulary)) {
  space_ = std::make_shared<grammar::MatchSpace>(grammar_, vocabulary_);
}

absl::StatusOr<std::shared_ptr<const Structure>> Structure::Compile(const StructureSpec& spec,
                                                                    const GrammarTokens& tokens) {
  BuildBudget budget;
  absl::StatusOr<std::shared_ptr<const Grammar>> grammar = CompileGrammar(spec, tokens, &budget);
  // What a builder says once the budget is spent means nothing.
  RETURN_IF_ERROR(budget.status());
  if (!grammar.ok()) return grammar.status();
  std::shared_ptr<Structure> structure(new Structure(*std::move(grammar), tokens.vocabulary));
  grammar::MatchSpace space(structure->grammar_, structure->vocabulary_);
  structure->shortest_tokens_ = space.TokensToEnd(space.Start(false));
  return structure;
}

std::shared_ptr<grammar::MatchSpace> Structure::space() const {
  const MutexLock lock(&mutex_);
  return space_;
}

std::shared_ptr<grammar::MatchSpace> Structure::Renew(
    const std::shared_ptr<grammar::MatchSpace>& old) const {
  const MutexLock lock(&mutex_);
  if (space_ == old) space_ = std::make_shared<grammar::MatchSpace>(grammar_, vocabulary_);
  return space_;
}

}  // namespace tessera
