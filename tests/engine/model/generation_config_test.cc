#include "engine/model/generation_config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <string>

#include "kernels/core/text_file.h"

namespace tessera {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr int32_t kVocab = 151936;

ModelConfig Model() {
  ModelConfig config;
  config.vocab_size = kVocab;
  config.eos_token_ids = {151645};
  return config;
}

absl::StatusOr<GenerationConfig> ParseReference(const std::string& name) {
  const std::string path = TESSERA_TEST_DATA "/reference/configs/" + name;
  return ParseGenerationConfig(*ReadTextFile(path, 1 << 20), path, Model());
}

TEST(GenerationConfigTest, ReadsTheReleasedFiles) {
  const auto hybrid = ParseReference("hybrid.generation_config.json");
  ASSERT_TRUE(hybrid.ok()) << hybrid.status();
  EXPECT_EQ(hybrid->do_sample, true);
  EXPECT_EQ(hybrid->temperature, 0.6);
  EXPECT_EQ(hybrid->top_k, 20);
  EXPECT_EQ(hybrid->top_p, 0.95);
  EXPECT_FALSE(hybrid->min_p || hybrid->repetition_penalty || hybrid->max_new_tokens);
  EXPECT_THAT(hybrid->eos_token_ids, ElementsAre(151645, 151643));

  const auto base = ParseReference("0.6B-Base.generation_config.json");
  ASSERT_TRUE(base.ok()) << base.status();
  EXPECT_EQ(base->do_sample, false);
  EXPECT_EQ(base->max_new_tokens, 2048);
  EXPECT_THAT(base->eos_token_ids, ElementsAre(151643, 151645));

  for (const std::string name : {"14B-FP8", "30B-A3B-Instruct-2507", "4B-Instruct-2507"}) {
    EXPECT_TRUE(ParseReference(name + ".generation_config.json").ok()) << name;
  }
}

// All that are named end a text: Base models name another token in each file.
TEST(GenerationConfigTest, EndTokensOfAllFilesCount) {
  const auto both =
      ParseGenerationConfig(R"({"eos_token_id": 151643})", "generation_config.json", Model());
  ASSERT_TRUE(both.ok()) << both.status();
  EXPECT_THAT(both->eos_token_ids, ElementsAre(151643, 151645));
  GenerationConfig generation = *both;
  EXPECT_FALSE(AddEndToken(151645, Model(), &generation)) << "known";
  EXPECT_FALSE(AddEndToken(-1, Model(), &generation));
  EXPECT_FALSE(AddEndToken(kVocab, Model(), &generation));
  EXPECT_TRUE(AddEndToken(5, Model(), &generation));
  EXPECT_THAT(generation.eos_token_ids, ElementsAre(151643, 151645, 5));

  const auto empty = ParseGenerationConfig("{}", "generation_config.json", Model());
  ASSERT_TRUE(empty.ok()) << empty.status();
  EXPECT_THAT(empty->eos_token_ids, ElementsAre(151645));

  const std::string directory = testing::TempDir() + "/no_generation_config";
  std::filesystem::create_directories(directory);
  EXPECT_EQ(*LoadGenerationConfig(directory, Model()), *empty);
}

TEST(GenerationConfigTest, RefusesValuesOutOfRange) {
  for (const std::string field :
       {R"("temperature":-0.1)", R"("temperature":"hot")", R"("top_k":-2)", R"("top_k":1.5)",
        R"("top_p":0)", R"("top_p":1.01)", R"("min_p":-1)", R"("min_p":2)",
        R"("repetition_penalty":0)", R"("max_new_tokens":0)", R"("max_new_tokens":4294967296)",
        R"("eos_token_id":-1)", R"("eos_token_id":[151936])", R"("do_sample":1)"}) {
    const auto parsed =
        ParseGenerationConfig("{" + field + "}", "dir/generation_config.json", Model());
    ASSERT_FALSE(parsed.ok()) << field;
    EXPECT_THAT(parsed.status().message(), HasSubstr("dir/generation_config.json: "));
    EXPECT_THAT(parsed.status().message(), HasSubstr(field.substr(1, field.find(':') - 2)));
  }
  EXPECT_TRUE(ParseGenerationConfig(R"({"temperature":null,"top_k":-1})", "f", Model()).ok());
}

}  // namespace
}  // namespace tessera
