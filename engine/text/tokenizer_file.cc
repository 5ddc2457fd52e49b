#include "engine/text/tokenizer_file.h"

#include <algorithm>
#include <cstddef>
#include <filesystem>
#include <map>
#include <optional>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/status/status.h"
#include "absl/strings/escaping.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "engine/files/json_document.h"
#include "engine/text/byte_alphabet.h"
#include "engine/text/pretokenizer.h"
#include "kernels/core/status_macros.h"
#include "kernels/core/text_file.h"

namespace tessera {
namespace {

namespace dom = simdjson::dom;

constexpr int64_t kMaxTokenId = (int64_t{1} << 21) - 1;  // the real vocabulary has 151,669 ids
constexpr int64_t kMaxFileBytes = int64_t{256} << 20;

// Debian's Abseil has a string_view of its own.
absl::string_view ToAbsl(std::string_view text) { return {text.data(), text.size()}; }

// A string of the file, fit for a one-line message.
std::string Quoted(std::string_view text) {
  constexpr size_t kLongest = 60;
  return absl::StrCat("\"", absl::CHexEscape(ToAbsl(text.substr(0, kLongest))),
                      text.size() > kLongest ? "...\"" : "\"");
}

// A JSON value together with the file and the key that lead to it.
class Node {
 public:
  Node(std::string_view file, std::string key, dom::element value)
      : file_(file), key_(std::move(key)), value_(value) {}

  absl::Status Error(std::string_view what) const {
    return absl::InvalidArgumentError(absl::StrCat(
        ToAbsl(file_), ": ", key_.empty() ? "the top level" : key_, " ", ToAbsl(what)));
  }

  // The member `name`; nullopt when it is absent or null.
  absl::StatusOr<std::optional<Node>> Optional(std::string_view name) const {
    dom::object object;
    if (value_.get(object) != simdjson::SUCCESS) return Error("must be an object");
    dom::element member;
    if (object.at_key(name).get(member) != simdjson::SUCCESS || member.is_null()) {
      return std::optional<Node>();
    }
    return std::optional<Node>(Child(name, member));
  }

  absl::StatusOr<Node> Required(std::string_view name) const {
    ASSIGN_OR_RETURN(std::optional<Node> member, Optional(name));
    if (!member) return Error(absl::StrCat("has no \"", ToAbsl(name), "\""));
    return *std::move(member);
  }

  absl::StatusOr<std::string_view> String() const {
    std::string_view text;
    if (value_.get(text) != simdjson::SUCCESS) return Error("must be a string");
    return text;
  }

  absl::StatusOr<bool> Bool() const {
    bool flag = false;
    if (value_.get(flag) != simdjson::SUCCESS) return Error("must be true or false");
    return flag;
  }

  absl::StatusOr<int32_t> TokenId() const {
    int64_t id = -1;
    if (value_.get(id) != simdjson::SUCCESS || id < 0 || id > kMaxTokenId) {
      return Error(absl::StrCat("must be a token id (an integer from 0 to ", kMaxTokenId, ")"));
    }
    return static_cast<int32_t>(id);
  }

  absl::StatusOr<dom::object> Object() const {
    dom::object object;
    if (value_.get(object) != simdjson::SUCCESS) return Error("must be an object");
    return object;
  }

  absl::StatusOr<dom::array> Array() const {
    dom::array array;
    if (value_.get(array) != simdjson::SUCCESS) return Error("must be an array");
    return array;
  }

  // Refuses any value of the string member `name` but `supported`.
  absl::Status RequireString(std::string_view name, std::string_view supported) const {
    ASSIGN_OR_RETURN(const Node member, Required(name));
    ASSIGN_OR_RETURN(const std::string_view value, member.String());
    if (value == supported) return absl::OkStatus();
    return member.Error(
        absl::StrCat("is ", Quoted(value), "; only ", Quoted(supported), " is supported"));
  }

  // `if_absent` is what a missing member means.
  absl::StatusOr<bool> Flag(std::string_view name, bool if_absent) const {
    ASSIGN_OR_RETURN(const std::optional<Node> member, Optional(name));
    return member ? member->Bool() : if_absent;
  }

  // Refuses a true flag.
  absl::Status RequireFalse(std::string_view name, bool if_absent) const {
    ASSIGN_OR_RETURN(const bool value, Flag(name, if_absent));
    if (!value) return absl::OkStatus();
    return Error(absl::StrCat("has \"", ToAbsl(name), "\" true; only false is supported"));
  }

  // Refuses a member that is there, not null and not an empty string.
  absl::Status RequireUnset(std::string_view name) const {
    ASSIGN_OR_RETURN(const std::optional<Node> member, Optional(name));
    if (!member) return absl::OkStatus();
    const absl::StatusOr<std::string_view> text = member->String();
    if (text.ok() && text->empty()) return absl::OkStatus();
    return member->Error("is not supported; only null is");
  }

  Node Child(std::string_view name, dom::element member) const {
    return {file_, key_.empty() ? std::string(name) : absl::StrCat(key_, ".", ToAbsl(name)),
            member};
  }
  Node Child(size_t index, dom::element member) const {
    return {file_, absl::StrCat(key_, "[", index, "]"), member};
  }

  dom::element value() const { return value_; }

 private:
  std::string_view file_;
  std::string key_;
  dom::element value_;
};

absl::StatusOr<JsonDocument> ReadJson(std::string_view file, std::string_view json) {
  absl::StatusOr<JsonDocument> document = JsonDocument::Parse(json);
  if (document.ok()) return document;
  return absl::InvalidArgumentError(
      absl::StrCat(ToAbsl(file), ": ", document.status().message(), "; is the file complete?"));
}

absl::Status CheckByteLevel(const Node& node) {
  RETURN_IF_ERROR(node.RequireString("type", "ByteLevel"));
  RETURN_IF_ERROR(node.RequireFalse("add_prefix_space", true));
  return node.RequireFalse("use_regex", true);
}

absl::Status CheckPretokenizer(const Node& root) {
  ASSIGN_OR_RETURN(const Node sequence, root.Required("pre_tokenizer"));
  RETURN_IF_ERROR(sequence.RequireString("type", "Sequence"));
  ASSIGN_OR_RETURN(const Node steps, sequence.Required("pretokenizers"));
  ASSIGN_OR_RETURN(const dom::array array, steps.Array());
  if (array.size() != 2) return steps.Error("must be Split followed by ByteLevel");
  const Node split = steps.Child(size_t{0}, array.at(0).value_unsafe());
  RETURN_IF_ERROR(split.RequireString("type", "Split"));
  RETURN_IF_ERROR(split.RequireString("behavior", "Isolated"));
  RETURN_IF_ERROR(split.RequireFalse("invert", false));
  ASSIGN_OR_RETURN(const Node pattern, split.Required("pattern"));
  RETURN_IF_ERROR(pattern.RequireString("Regex", kQwenSplitPattern));
  return CheckByteLevel(steps.Child(size_t{1}, array.at(1).value_unsafe()));
}

absl::Status CheckModelKind(const Node& model) {
  RETURN_IF_ERROR(model.RequireString("type", "BPE"));
  ASSIGN_OR_RETURN(const std::optional<Node> dropout, model.Optional("dropout"));
  if (dropout) return dropout->Error("is not supported; only null is");
  for (const char* name : {"unk_token", "continuing_subword_prefix", "end_of_word_suffix"}) {
    RETURN_IF_ERROR(model.RequireUnset(name));
  }
  RETURN_IF_ERROR(model.RequireFalse("byte_fallback", false));
  return model.RequireFalse("ignore_merges", false);
}

absl::Status CheckPipeline(const Node& root) {
  ASSIGN_OR_RETURN(const Node normalizer, root.Required("normalizer"));
  RETURN_IF_ERROR(normalizer.RequireString("type", "NFC"));
  RETURN_IF_ERROR(CheckPretokenizer(root));
  ASSIGN_OR_RETURN(const std::optional<Node> post_processor, root.Optional("post_processor"));
  if (post_processor) RETURN_IF_ERROR(post_processor->RequireString("type", "ByteLevel"));
  ASSIGN_OR_RETURN(const Node decoder, root.Required("decoder"));
  return decoder.RequireString("type", "ByteLevel");
}

// The base vocabulary in the spelling of the file. Views point into the parsed document.
struct Vocabulary {
  absl::flat_hash_map<absl::string_view, int32_t> id_of;
  std::vector<std::string_view> spelling_of;  // by id; empty where no token has the id

  // The id of a token, -1 when there is none. Merges mostly list their results by ascending id, so
  // looking at the `likely` id first saves the hash table's cache misses.
  int32_t Find(std::string_view spelling, int32_t likely = 0) const {
    const auto guess = static_cast<size_t>(likely);
    if (guess < spelling_of.size() && spelling_of[guess] == spelling) return likely;
    const auto entry = id_of.find(ToAbsl(spelling));
    return entry == id_of.end() ? -1 : entry->second;
  }
};

absl::StatusOr<Vocabulary> ReadVocabulary(const Node& model) {
  ASSIGN_OR_RETURN(const Node node, model.Required("vocab"));
  ASSIGN_OR_RETURN(const dom::object object, node.Object());
  Vocabulary vocabulary;
  vocabulary.id_of.reserve(object.size());
  vocabulary.spelling_of.reserve(object.size());
  for (const dom::key_value_pair& entry : object) {
    int64_t number = -1;
    if (entry.value.get(number) != simdjson::SUCCESS || number < 0 || number > kMaxTokenId) {
      return node.Child(Quoted(entry.key), entry.value).TokenId().status();
    }
    const auto id = static_cast<size_t>(number);
    if (entry.key.empty()) return node.Error("has an empty token");
    if (!vocabulary.id_of.emplace(ToAbsl(entry.key), static_cast<int32_t>(id)).second) {
      return node.Error(absl::StrCat("has the token ", Quoted(entry.key), " twice"));
    }
    if (id >= vocabulary.spelling_of.size()) vocabulary.spelling_of.resize(id + 1);
    if (!vocabulary.spelling_of[id].empty()) {
      return node.Error(absl::StrCat("gives the id ", id, " to both ",
                                     Quoted(vocabulary.spelling_of[id]), " and ",
                                     Quoted(entry.key)));
    }
    vocabulary.spelling_of[id] = entry.key;
  }
  return vocabulary;
}

// A merge is ["a", "b"] or "a b"; the byte alphabet has no space, so the first one separates.
std::optional<std::pair<std::string_view, std::string_view>> SplitMerge(dom::element merge) {
  std::string_view left;
  std::string_view right;
  if (std::string_view both; merge.get(both) == simdjson::SUCCESS) {
    const size_t space = both.find(' ');
    if (space == std::string_view::npos) return std::nullopt;
    left = both.substr(0, space);
    right = both.substr(space + 1);
  } else {
    dom::array pair;
    if (merge.get(pair) != simdjson::SUCCESS || pair.size() != 2) return std::nullopt;
    if (pair.at(0).get(left) != simdjson::SUCCESS) return std::nullopt;
    if (pair.at(1).get(right) != simdjson::SUCCESS) return std::nullopt;
  }
  if (left.empty() || right.empty()) return std::nullopt;
  return std::pair(left, right);
}

absl::StatusOr<std::vector<BytePairMerge>> ReadMerges(const Node& model,
                                                      const Vocabulary& vocabulary) {
  ASSIGN_OR_RETURN(const Node node, model.Required("merges"));
  ASSIGN_OR_RETURN(const dom::array array, node.Array());
  std::vector<BytePairMerge> merges;
  merges.reserve(array.size());
  std::string joined;
  for (const dom::element element : array) {
    const auto parts = SplitMerge(element);
    if (!parts) {
      return node.Child(merges.size(), element).Error("must be [\"a\", \"b\"] or \"a b\"");
    }
    joined.assign(parts->first).append(parts->second);
    const int32_t likely_result = merges.empty() ? 0 : merges.back().result + 1;
    BytePairMerge merge{};
    const std::pair<std::string_view, int32_t*> lookups[] = {
        {parts->first, &merge.left}, {parts->second, &merge.right}, {joined, &merge.result}};
    for (const auto& [spelling, id] : lookups) {
      *id = vocabulary.Find(spelling, likely_result);
      if (*id < 0) {
        return node.Child(merges.size(), element)
            .Error(absl::StrCat("needs ", Quoted(spelling), ", which is not in the vocabulary"));
      }
    }
    merges.push_back(merge);
  }
  return merges;
}

using AddedTokensById = std::map<int32_t, AddedToken>;

absl::StatusOr<AddedToken> ReadAddedToken(const Node& node, int32_t id) {
  for (const char* rule : {"single_word", "lstrip", "rstrip"}) {
    RETURN_IF_ERROR(node.RequireFalse(rule, false));
  }
  ASSIGN_OR_RETURN(const Node content_node, node.Required("content"));
  ASSIGN_OR_RETURN(const std::string_view content, content_node.String());
  if (content.empty()) return content_node.Error("must not be empty");
  AddedToken token{.id = id, .content = std::string(content)};
  ASSIGN_OR_RETURN(token.special, node.Flag("special", false));
  ASSIGN_OR_RETURN(token.normalized, node.Flag("normalized", false));
  return token;
}

// Adds `token` to the table of one file, where neither id nor content may repeat.
absl::Status AddUnique(const Node& node, AddedToken token,
                       absl::flat_hash_set<std::string>* contents, AddedTokensById* tokens) {
  if (!contents->insert(token.content).second) {
    return node.Error(absl::StrCat("repeats the added token ", Quoted(token.content)));
  }
  const int32_t id = token.id;
  if (!tokens->emplace(id, std::move(token)).second) {
    return node.Error(absl::StrCat("repeats the token id ", id));
  }
  return absl::OkStatus();
}

absl::StatusOr<AddedTokensById> ReadAddedTokens(const Node& root) {
  AddedTokensById tokens;
  ASSIGN_OR_RETURN(const std::optional<Node> list, root.Optional("added_tokens"));
  if (!list) return tokens;
  ASSIGN_OR_RETURN(const dom::array array, list->Array());
  absl::flat_hash_set<std::string> contents;
  size_t index = 0;
  for (const dom::element element : array) {
    const Node node = list->Child(index++, element);
    ASSIGN_OR_RETURN(const Node id_node, node.Required("id"));
    ASSIGN_OR_RETURN(const int32_t id, id_node.TokenId());
    ASSIGN_OR_RETURN(AddedToken token, ReadAddedToken(node, id));
    RETURN_IF_ERROR(AddUnique(node, std::move(token), &contents, &tokens));
  }
  return tokens;
}

absl::StatusOr<AddedTokensById> ReadAddedTokensDecoder(const Node& config) {
  AddedTokensById tokens;
  ASSIGN_OR_RETURN(const std::optional<Node> table, config.Optional("added_tokens_decoder"));
  if (!table) return tokens;
  ASSIGN_OR_RETURN(const dom::object object, table->Object());
  absl::flat_hash_set<std::string> contents;
  for (const dom::key_value_pair& entry : object) {
    const Node node = table->Child(Quoted(entry.key), entry.value);
    int32_t id = -1;
    if (!absl::SimpleAtoi(ToAbsl(entry.key), &id) || id < 0 || id > kMaxTokenId) {
      return node.Error(
          absl::StrCat("must have a token id from 0 to ", kMaxTokenId, " as its key"));
    }
    ASSIGN_OR_RETURN(AddedToken token, ReadAddedToken(node, id));
    RETURN_IF_ERROR(AddUnique(node, std::move(token), &contents, &tokens));
  }
  return tokens;
}

// `winner` replaces entries of `tokens` with the same id or the same content.
void MergeAddedTokens(AddedTokensById winner, AddedTokensById* tokens) {
  absl::flat_hash_set<std::string_view> won;
  for (const auto& [id, token] : winner) won.insert(token.content);
  for (auto entry = tokens->begin(); entry != tokens->end();) {
    entry = won.contains(entry->second.content) ? tokens->erase(entry) : std::next(entry);
  }
  for (auto& [id, token] : winner) (*tokens)[id] = token;
}

// An added token may repeat a vocabulary entry exactly; it may not take the id or the text of
// another one.
absl::Status CheckAgainstVocabulary(const Node& root, const Vocabulary& vocabulary,
                                    const AddedTokensById& tokens) {
  for (const auto& [id, token] : tokens) {
    const bool id_taken = static_cast<size_t>(id) < vocabulary.spelling_of.size() &&
                          !vocabulary.spelling_of[static_cast<size_t>(id)].empty();
    const int32_t id_in_vocabulary = vocabulary.Find(token.content);
    if (id_in_vocabulary == id || (!id_taken && id_in_vocabulary < 0)) continue;
    return root.Error(absl::StrCat("has the added token ", Quoted(token.content), " with id ", id,
                                   ", which contradicts model.vocab"));
  }
  return absl::OkStatus();
}

// The token that tokenizer_config.json calls the end of a text: its text, or an object that holds
// it. -1 when it names none, or one that does not exist.
int32_t FindEosToken(const Node& config, const Vocabulary& vocabulary,
                     const AddedTokensById& added) {
  dom::element eos;
  if (config.value().at_key("eos_token").get(eos) != simdjson::SUCCESS) return -1;
  std::string_view text;
  if (eos.get(text) != simdjson::SUCCESS && eos.at_key("content").get(text) != simdjson::SUCCESS) {
    return -1;
  }
  for (const auto& [id, token] : added) {
    if (token.content == text) return id;
  }
  return vocabulary.Find(text);
}

absl::Status FillByteIds(const Node& model, const Vocabulary& vocabulary,
                         const ByteAlphabet& alphabet, std::array<int32_t, 256>* byte_ids) {
  for (size_t byte = 0; byte < byte_ids->size(); ++byte) {
    (*byte_ids)[byte] = vocabulary.Find(alphabet.Spelling(static_cast<uint8_t>(byte)));
    if ((*byte_ids)[byte] < 0) {
      return model.Error(absl::StrCat("has no token for the byte 0x",
                                      absl::Hex(byte, absl::kZeroPad2), " in \"vocab\" (",
                                      Quoted(alphabet.Spelling(static_cast<uint8_t>(byte))), ")"));
    }
  }
  return absl::OkStatus();
}

void FillTokenBytes(const Vocabulary& vocabulary, const ByteAlphabet& alphabet,
                    const AddedTokensById& added, TokenizerDefinition* definition) {
  size_t count = vocabulary.spelling_of.size();
  if (!added.empty()) count = std::max(count, static_cast<size_t>(added.rbegin()->first) + 1);
  std::vector<uint32_t>& offsets = definition->token_offsets;
  offsets.reserve(count + 1);
  offsets.push_back(0);
  auto next_added = added.begin();
  for (size_t id = 0; id < count; ++id) {
    if (next_added != added.end() && static_cast<size_t>(next_added->first) == id) {
      definition->token_bytes.append(next_added->second.content);
      ++next_added;
    } else if (id < vocabulary.spelling_of.size()) {
      alphabet.AppendBytes(vocabulary.spelling_of[id], &definition->token_bytes);
    }
    offsets.push_back(static_cast<uint32_t>(definition->token_bytes.size()));
  }
}

}  // namespace

absl::StatusOr<TokenizerDefinition> ParseTokenizerDefinition(const TokenizerSources& sources) {
  ASSIGN_OR_RETURN(const JsonDocument json,
                   ReadJson(sources.tokenizer_name, sources.tokenizer_json));
  const Node root(sources.tokenizer_name, "", json.root());
  RETURN_IF_ERROR(CheckPipeline(root));
  ASSIGN_OR_RETURN(const Node model, root.Required("model"));
  RETURN_IF_ERROR(CheckModelKind(model));
  ASSIGN_OR_RETURN(const Vocabulary vocabulary, ReadVocabulary(model));
  TokenizerDefinition definition;
  ASSIGN_OR_RETURN(definition.merges, ReadMerges(model, vocabulary));
  const ByteAlphabet alphabet;
  RETURN_IF_ERROR(FillByteIds(model, vocabulary, alphabet, &definition.byte_ids));

  ASSIGN_OR_RETURN(AddedTokensById added, ReadAddedTokens(root));
  RETURN_IF_ERROR(CheckAgainstVocabulary(root, vocabulary, added));
  if (!sources.config_json.empty()) {
    ASSIGN_OR_RETURN(const JsonDocument config_json,
                     ReadJson(sources.config_name, sources.config_json));
    const Node config(sources.config_name, "", config_json.root());
    ASSIGN_OR_RETURN(AddedTokensById from_config, ReadAddedTokensDecoder(config));
    RETURN_IF_ERROR(CheckAgainstVocabulary(config, vocabulary, from_config));
    MergeAddedTokens(std::move(from_config), &added);
    definition.eos_token_id = FindEosToken(config, vocabulary, added);
  }
  FillTokenBytes(vocabulary, alphabet, added, &definition);
  for (auto& [id, token] : added) definition.added_tokens.push_back(std::move(token));
  return definition;
}

absl::StatusOr<TokenizerDefinition> LoadTokenizerDefinition(const std::string& model_dir) {
  TokenizerSources sources;
  sources.tokenizer_name = (std::filesystem::path(model_dir) / "tokenizer.json").string();
  sources.config_name = (std::filesystem::path(model_dir) / "tokenizer_config.json").string();
  ASSIGN_OR_RETURN(sources.tokenizer_json, ReadTextFile(sources.tokenizer_name, kMaxFileBytes));
  absl::StatusOr<std::string> config = ReadTextFile(sources.config_name, kMaxFileBytes);
  if (config.ok()) {
    sources.config_json = *std::move(config);
    if (sources.config_json.empty()) {
      return absl::InvalidArgumentError(absl::StrCat(sources.config_name, ": is empty"));
    }
  } else if (!absl::IsNotFound(config.status())) {
    return config.status();
  }
  return ParseTokenizerDefinition(sources);
}

}  // namespace tessera
