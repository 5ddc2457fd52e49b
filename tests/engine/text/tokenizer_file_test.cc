#include "engine/text/tokenizer_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <nlohmann/json.hpp>

#include "engine/text/byte_alphabet.h"
#include "engine/text/pretokenizer.h"
#include "engine/text/tokenizer.h"
#include "tests/engine/text/reference_tokenizer.h"

namespace tessera {
namespace {

using nlohmann::json;
using ::testing::HasSubstr;
using ::testing::Not;

// A complete tokenizer with the 256 bytes, the merges "a b" and "ab c", and two added tokens.
json SmallTokenizer() {
  const ByteAlphabet alphabet;
  json vocab = json::object();
  for (int byte = 0; byte < 256; ++byte) {
    vocab[std::string(alphabet.Spelling(static_cast<uint8_t>(byte)))] = byte;
  }
  vocab["ab"] = 256;
  vocab["abc"] = 257;
  const json byte_level = {
      {"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", false}};
  const json split = {{"type", "Split"},
                      {"pattern", {{"Regex", std::string(kQwenSplitPattern)}}},
                      {"behavior", "Isolated"},
                      {"invert", false}};
  return {{"added_tokens",
           {{{"id", 258}, {"content", "<|end|>"}, {"special", true}},
            {{"id", 259}, {"content", "<think>"}, {"special", false}}}},
          {"normalizer", {{"type", "NFC"}}},
          {"pre_tokenizer", {{"type", "Sequence"}, {"pretokenizers", {split, byte_level}}}},
          {"post_processor", byte_level},
          {"decoder", byte_level},
          {"model",
           {{"type", "BPE"},
            {"vocab", vocab},
            {"merges", json::array({json::array({"a", "b"}), json::array({"ab", "c"})})}}}};
}

absl::StatusOr<std::shared_ptr<const Tokenizer>> Parse(const std::string& tokenizer,
                                                       const std::string& config = "") {
  TokenizerSources sources;
  sources.tokenizer_json = tokenizer;
  sources.config_json = config;
  return Tokenizer::Parse(sources);
}

// A one-line InvalidArgument that names the file.
std::string ErrorOf(const std::string& tokenizer, const std::string& config = "") {
  const auto parsed = Parse(tokenizer, config);
  EXPECT_EQ(parsed.status().code(), absl::StatusCode::kInvalidArgument);
  const std::string message(parsed.status().message());
  EXPECT_THAT(message, HasSubstr("tokenizer"));
  EXPECT_THAT(message, HasSubstr(".json: "));
  EXPECT_THAT(message, Not(HasSubstr("\n")));
  EXPECT_LT(message.size(), 500u);
  return message;
}

TEST(TokenizerFile, SmallTokenizerWorks) {
  const auto tokenizer = Parse(SmallTokenizer().dump());
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_EQ((*tokenizer)->vocab_size(), 260);
  EXPECT_EQ(*(*tokenizer)->Encode("abc<|end|>", {.parse_added_tokens = true}),
            (std::vector<int32_t>{257, 258}));
  EXPECT_TRUE((*tokenizer)->IsSpecial(258));
  EXPECT_FALSE((*tokenizer)->IsSpecial(259));
}

TEST(TokenizerFile, BothSpellingsOfMergesGiveTheSame) {
  json spelled = SmallTokenizer();
  spelled["model"]["merges"] = {"a b", "ab c"};
  spelled["model"]["ignore_merges"] = false;
  const auto tokenizer = Parse(spelled.dump());
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_EQ(*(*tokenizer)->Encode("abc", {}), (std::vector<int32_t>{257}));
}

TEST(TokenizerFile, TheOlderSerialisationOfTheRealFileGivesTheGoldens) {
  const TokenizerSources& reference = ReferenceTokenizerSources();
  json older = json::parse(reference.tokenizer_json);
  json merges = json::array();
  for (const json& pair : older["model"]["merges"]) {
    merges.push_back(pair[0].get<std::string>() + " " + pair[1].get<std::string>());
  }
  older["model"]["merges"] = std::move(merges);
  older["model"].erase("ignore_merges");
  for (int i = 0; i < 4; ++i) older["added_tokens"].erase(older["added_tokens"].size() - 1);
  const auto tokenizer = Parse(older.dump(), reference.config_json);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_EQ((*tokenizer)->vocab_size(), 151669);
  for (const TokenizerGolden& golden : ReadTokenizerGoldens()) {
    ASSERT_EQ(*(*tokenizer)->Encode(golden.text, {.parse_added_tokens = true}), golden.ids);
  }
  const auto alone = Parse(older.dump());
  ASSERT_TRUE(alone.ok()) << alone.status();
  EXPECT_EQ((*alone)->vocab_size(), 151665);
}

TEST(TokenizerFile, TokenizerConfigWins) {
  const json config = {{"added_tokens_decoder",
                        {{"258", {{"content", "<|stop|>"}, {"special", false}}},
                         {"260", {{"content", "<think>"}, {"special", true}}}}}};
  const auto tokenizer = Parse(SmallTokenizer().dump(), config.dump());
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_EQ((*tokenizer)->TokenId("<|stop|>"), 258);
  EXPECT_EQ((*tokenizer)->TokenId("<|end|>"), std::nullopt);
  EXPECT_EQ((*tokenizer)->TokenId("<think>"), 260);
  EXPECT_FALSE((*tokenizer)->IsSpecial(258));
  EXPECT_TRUE((*tokenizer)->IsSpecial(260));
  EXPECT_EQ((*tokenizer)->TokenBytes(259), "");
  EXPECT_EQ((*tokenizer)->vocab_size(), 261);
}

TEST(TokenizerFile, LongestAddedTokenWinsAtTheLeftmostPlace) {
  json file = SmallTokenizer();
  file["added_tokens"] = {{{"id", 258}, {"content", "<a"}},
                          {{"id", 259}, {"content", "<ab>"}},
                          {{"id", 260}, {"content", "b>c"}}};
  const auto tokenizer = Parse(file.dump());
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  const auto encode = [&](std::string_view text) {
    return *(*tokenizer)->Encode(text, {.parse_added_tokens = true});
  };
  EXPECT_EQ(encode("<ab>c"), (std::vector<int32_t>{259, 'c'}));
  EXPECT_EQ(encode("<ab"), (std::vector<int32_t>{258, 'b'}));
  EXPECT_EQ(encode("ab>c"), (std::vector<int32_t>{'a', 260}));
}

TEST(TokenizerFile, RefusesWhatItDoesNotSupportByName) {
  struct Case {
    const char* pointer;  // JSON pointer of the value to replace
    json value;
    const char* message;
  };
  const Case cases[] = {
      {"/normalizer", nullptr, "has no \"normalizer\""},
      {"/normalizer/type", "NFKC", "normalizer.type is \"NFKC\"; only \"NFC\""},
      {"/normalizer", 7, "normalizer must be an object"},
      {"/pre_tokenizer/type", "Whitespace", "pre_tokenizer.type is \"Whitespace\""},
      {"/pre_tokenizer/pretokenizers", json::array(), "must be Split followed by ByteLevel"},
      {"/pre_tokenizer/pretokenizers", "x", "pre_tokenizer.pretokenizers must be an array"},
      {"/pre_tokenizer/pretokenizers/0/behavior", "Removed", "only \"Isolated\""},
      {"/pre_tokenizer/pretokenizers/0/invert", true, "\"invert\" true"},
      {"/pre_tokenizer/pretokenizers/0/pattern/Regex", "(a+)+$", "pattern.Regex is \"(a+)+$\""},
      {"/pre_tokenizer/pretokenizers/1/use_regex", true, "pretokenizers[1] has \"use_regex\""},
      {"/pre_tokenizer/pretokenizers/1/add_prefix_space", 1, "must be true or false"},
      {"/post_processor/type", "TemplateProcessing", "post_processor.type is \"Template"},
      {"/decoder", nullptr, "has no \"decoder\""},
      {"/decoder/type", "WordPiece", "decoder.type is \"WordPiece\""},
      {"/model", nullptr, "has no \"model\""},
      {"/model", json::array(), "model must be an object"},
      {"/model/type", "Unigram", "model.type is \"Unigram\"; only \"BPE\""},
      {"/model/dropout", 0.1, "model.dropout is not supported"},
      {"/model/unk_token", "<unk>", "model.unk_token is not supported"},
      {"/model/continuing_subword_prefix", "##", "continuing_subword_prefix"},
      {"/model/byte_fallback", true, "\"byte_fallback\" true"},
      {"/model/ignore_merges", true, "\"ignore_merges\" true"},
      {"/model/vocab", nullptr, "has no \"vocab\""},
      {"/model/vocab", 3, "model.vocab must be an object"},
      {"/model/vocab/ab", -1, "model.vocab.\"ab\" must be a token id"},
      {"/model/vocab/ab", 1.5, "model.vocab.\"ab\" must be a token id"},
      {"/model/vocab/ab", "7", "model.vocab.\"ab\" must be a token id"},
      {"/model/vocab/ab", 4000000000u, "must be a token id"},
      {"/model/vocab/ab", 18446744073709551615u, "must be a token id"},
      {"/model/vocab/ab", 97, "gives the id 97 to both"},
      {"/model/merges", nullptr, "has no \"merges\""},
      {"/model/merges/1", "abc", "model.merges[1] must be"},
      {"/model/merges/1", " c", "model.merges[1] must be"},
      {"/model/merges/1", json::array({"a"}), "model.merges[1] must be"},
      {"/model/merges/1", json::array({"a", 1}), "model.merges[1] must be"},
      {"/model/merges/0", json::array({"a", "zz\n"}), "\"zz\\n\", which is not in the vocab"},
      {"/model/merges/1", json::array({"c", "a"}), "\"ca\", which is not in the vocabulary"},
      {"/added_tokens", 1, "added_tokens must be an array"},
      {"/added_tokens/0", 1, "added_tokens[0] must be an object"},
      {"/added_tokens/0/id", nullptr, "added_tokens[0] has no \"id\""},
      {"/added_tokens/0/id", 1e300, "added_tokens[0].id must be a token id"},
      {"/added_tokens/0/id", 259, "repeats the token id 259"},
      {"/added_tokens/0/id", 3, "contradicts model.vocab"},
      {"/added_tokens/0/content", "<think>", "repeats the added token \"<think>\""},
      {"/added_tokens/0/content", "ab", "contradicts model.vocab"},
      {"/added_tokens/0/content", "", "added_tokens[0].content must not be empty"},
      {"/added_tokens/0/special", "yes", "added_tokens[0].special must be true or false"},
      {"/added_tokens/0/lstrip", true, "\"lstrip\" true"},
      {"/added_tokens/0/normalized", 1, "added_tokens[0].normalized must be true or false"},
  };
  for (const Case& c : cases) {
    json file = SmallTokenizer();
    file[json::json_pointer(c.pointer)] = c.value;
    EXPECT_THAT(ErrorOf(file.dump()), HasSubstr(c.message)) << c.pointer;
  }
}

// tokenizer.add_tokens() of transformers writes "normalized": true for tokens that are not special.
TEST(TokenizerFile, TokensThatWantNormalizedTextAreFoundInIt) {
  json file = SmallTokenizer();
  const auto add = [&file](int id, const char* content, bool normalized) {
    file["added_tokens"].push_back({{"id", id}, {"content", content}, {"normalized", normalized}});
  };
  add(260, "<myfunc>", true);
  add(261, "caf\u00e9", true);  // composed
  add(262, "e\u0301e", true);   // decomposed: found as its NFC
  add(263, "<myfunc><x>", true);
  add(264, "func>-", false);
  const auto tokenizer = Parse(file.dump());
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  const auto encode = [&tokenizer](std::string_view text) {
    return *(*tokenizer)->Encode(text, {.parse_added_tokens = true});
  };
  using Ids = std::vector<int32_t>;
  EXPECT_EQ(encode("abc<myfunc>ab"), (Ids{257, 260, 256}));
  EXPECT_EQ(encode("<myfunc>"), (Ids{260}));
  EXPECT_EQ(encode("<|end|><myfunc><|end|>"), (Ids{258, 260, 258}));
  EXPECT_EQ(encode("<myfunc> <myfunc>"), (Ids{260, ' ', 260}));
  EXPECT_EQ(encode("caf\u00e9"), (Ids{261}));
  EXPECT_EQ(encode("cafe\u0301"), (Ids{261}));
  EXPECT_EQ(encode("\u00e9e"), (Ids{262}));
  EXPECT_EQ(encode("<myfunc>\u0338"), encode("<myfunc\u226f")) << "the mark is a part of >";
  EXPECT_EQ(encode("\xff<myfunc>").back(), 260);
  const Ids both = encode("<myfunc>-");
  EXPECT_EQ(std::count(both.begin(), both.end(), 264), 1) << "in the raw text, so first";
  EXPECT_EQ(std::count(both.begin(), both.end(), 260), 0);
  const Ids plain = *(*tokenizer)->Encode("<myfunc>", {.parse_added_tokens = false});
  EXPECT_EQ(std::count(plain.begin(), plain.end(), 260), 0);
  const std::vector<TextSegment> segments = {{"<my", true}, {"func>", true}, {"<myfunc>", false}};
  const Ids apart = *(*tokenizer)->EncodeSegments(segments);
  EXPECT_EQ(std::count(apart.begin(), apart.end(), 260), 0) << "not in one trusted segment";
}

TEST(TokenizerFile, KnowsTheEndTokenOfTheConfig) {
  const std::string file = SmallTokenizer().dump();
  const auto eos = [&file](const std::string& config) {
    const auto tokenizer = Parse(file, config);
    EXPECT_TRUE(tokenizer.ok()) << tokenizer.status();
    return tokenizer.ok() ? (*tokenizer)->eos_token_id() : -2;
  };
  EXPECT_EQ(eos(R"({"eos_token": "<|end|>"})"), 258);
  EXPECT_EQ(eos(R"({"eos_token": {"__type": "AddedToken", "content": "<think>"}})"), 259);
  EXPECT_EQ(eos(R"({"eos_token": "abc"})"), 257) << "of the vocabulary";
  for (const char* config : {"{}", R"({"eos_token": null})", R"({"eos_token": "<other>"})",
                             R"({"eos_token": 7})", R"({"eos_token": {}})"}) {
    EXPECT_EQ(eos(config), -1) << config;
  }
}

TEST(TokenizerFile, RefusesAVocabularyWithoutAByte) {
  json file = SmallTokenizer();
  file["model"]["vocab"].erase("\u0120");
  EXPECT_THAT(ErrorOf(file.dump()), HasSubstr("no token for the byte 0x20"));
}

TEST(TokenizerFile, RefusesRepeatedKeys) {
  std::string file = SmallTokenizer().dump();
  const std::string key = "\"abc\":257";
  file.replace(file.find(key), key.size(), key + ",\"abc\":300");
  EXPECT_THAT(ErrorOf(file), HasSubstr("has the token \"abc\" twice"));
}

TEST(TokenizerFile, RefusesBadTokenizerConfigs) {
  const std::string file = SmallTokenizer().dump();
  EXPECT_THAT(ErrorOf(file, "[]"), HasSubstr("tokenizer_config.json: the top level must be"));
  EXPECT_THAT(ErrorOf(file, "{"), HasSubstr("tokenizer_config.json: not valid JSON"));
  EXPECT_THAT(ErrorOf(file, R"({"added_tokens_decoder": []})"), HasSubstr("must be an object"));
  EXPECT_THAT(ErrorOf(file, R"({"added_tokens_decoder": {"x\n": {"content": "a"}}})"),
              HasSubstr("as its key"));
  EXPECT_THAT(ErrorOf(file, R"({"added_tokens_decoder": {"99999999999": {"content": "a"}}})"),
              HasSubstr("as its key"));
  EXPECT_THAT(ErrorOf(file, R"({"added_tokens_decoder": {"300": {}}})"),
              HasSubstr("has no \"content\""));
  EXPECT_THAT(ErrorOf(file, R"({"added_tokens_decoder": {"3": {"content": "<x>"}}})"),
              HasSubstr("contradicts model.vocab"));
}

TEST(TokenizerFile, EveryTruncationIsAnError) {
  const std::string file = SmallTokenizer().dump();
  for (size_t length = 0; length < file.size(); ++length) {
    EXPECT_THAT(ErrorOf(file.substr(0, length)), HasSubstr("tokenizer.json: not valid JSON"));
  }
}

TEST(TokenizerFile, DeepNestingIsAnError) {
  EXPECT_THAT(ErrorOf(std::string(100000, '[')), HasSubstr("not valid JSON"));
  EXPECT_THAT(ErrorOf("{\"a\":\"\xFF\"}"), HasSubstr("not valid JSON"));
}

class ModelFolder : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string name = (std::filesystem::temp_directory_path() / "tokenizer_XXXXXX").string();
    ASSERT_NE(mkdtemp(name.data()), nullptr);
    path_ = name;
  }
  void TearDown() override { std::filesystem::remove_all(path_); }

  void Write(const char* name, std::string_view content) const {
    std::ofstream(path_ / name, std::ios::binary) << content;
  }
  absl::Status LoadStatus() const { return Tokenizer::Load(path_.string()).status(); }

  std::filesystem::path path_;
};

TEST_F(ModelFolder, LoadsWithAndWithoutTokenizerConfig) {
  Write("tokenizer.json", SmallTokenizer().dump());
  EXPECT_EQ(LoadStatus(), absl::OkStatus());
  Write("tokenizer_config.json", "{}");
  EXPECT_EQ(LoadStatus(), absl::OkStatus());
}

TEST_F(ModelFolder, NamesTheMissingFile) {
  const absl::Status status = LoadStatus();
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(status.message()), HasSubstr((path_ / "tokenizer.json").string()));
}

TEST_F(ModelFolder, RefusesWhatIsNoFile) {
  std::filesystem::create_directory(path_ / "tokenizer.json");
  EXPECT_EQ(LoadStatus().code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(ModelFolder, RefusesEmptyFiles) {
  Write("tokenizer.json", "");
  EXPECT_THAT(std::string(LoadStatus().message()), HasSubstr("tokenizer.json: not valid JSON"));
  Write("tokenizer.json", SmallTokenizer().dump());
  Write("tokenizer_config.json", "");
  EXPECT_THAT(std::string(LoadStatus().message()), HasSubstr("tokenizer_config.json: is empty"));
}

TEST_F(ModelFolder, RefusesHugeFilesWithoutReadingThem) {
  Write("tokenizer.json", "{");
  std::filesystem::resize_file(path_ / "tokenizer.json", uintmax_t{1} << 40);
  EXPECT_THAT(std::string(LoadStatus().message()), HasSubstr("has 1099511627776 bytes"));
}

}  // namespace
}  // namespace tessera
