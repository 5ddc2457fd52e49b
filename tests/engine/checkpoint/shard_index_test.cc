#include "engine/checkpoint/shard_index.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

namespace tessera {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

TEST(ShardIndexTest, ReadsTheUsualFile) {
  const auto index = ParseShardIndex(R"({
    "metadata": {"total_size": 61064245248, "total_parameters": 3, "x": {"y": [1, null]}},
    "weight_map": {
      "lm_head.weight": "model-00002-of-00002.safetensors",
      "a.weight": "model-00001-of-00002.safetensors",
      "b.weight": "model-00002-of-00002.safetensors"
    }
  }
)");
  ASSERT_TRUE(index.ok()) << index.status();
  EXPECT_EQ(index->total_size, 61064245248);
  EXPECT_THAT(index->files,
              ElementsAre("model-00002-of-00002.safetensors", "model-00001-of-00002.safetensors"));
  ASSERT_EQ(index->entries.size(), 3U);
  EXPECT_EQ(index->entries[0].tensor, "a.weight");
  EXPECT_EQ(index->entries[0].file, 1U);
}

TEST(ShardIndexTest, ASizeInAnOddSpellingIsIgnored) {
  for (const std::string size : {"1.5e9", "\"3\"", "null", "-1", "123456789012345678901"}) {
    const auto index = ParseShardIndex(R"({"metadata":{"total_size":)" + size +
                                       R"(},"weight_map":{"a":"m.safetensors"}})");
    ASSERT_TRUE(index.ok()) << size << ": " << index.status();
    EXPECT_FALSE(index->total_size) << size;
  }
}

TEST(ShardIndexTest, RefusesNamesThatLeaveTheFolder) {
  for (const std::string name : {"../m.safetensors", "/m.safetensors", "a/m.safetensors",
                                 "a\\\\m.safetensors", "..", ".safetensors", ".hidden.safetensors",
                                 "", "m.bin", "m\\u0000.safetensors", "m\\n.safetensors"}) {
    const auto index = ParseShardIndex(R"({"weight_map":{"tensor.x":")" + name + R"("}})");
    ASSERT_FALSE(index.ok()) << name;
    EXPECT_THAT(index.status().message(), HasSubstr("tensor.x")) << name;
  }
}

TEST(ShardIndexTest, WhatOthersWriteBesideTheMapIsNotItsBusiness) {
  for (const std::string text : {R"({"weight_map":{"a":"m.safetensors"},"other":{"x":[1]}})",
                                 R"({"metadata":null,"weight_map":{"a":"m.safetensors"}})",
                                 R"({"metadata":[],"weight_map":{"a":"m.safetensors"}})"}) {
    const auto index = ParseShardIndex(text);
    ASSERT_TRUE(index.ok()) << text << index.status();
    EXPECT_EQ(index->entries.size(), 1U);
  }
}

TEST(ShardIndexTest, RefusesBrokenText) {
  for (const std::string text :
       {R"()", R"({})", R"([])", R"({"weight_map":{}})", R"({"weight_map":3})",
        R"({"metadata":{}})", R"({"weight_map":{"a":3}})",
        R"({"weight_map":{"a":"m.safetensors"}} x)", R"({"weight_map":{"a":"m.safetensors",}})",
        R"({"weight_map":{"a":"m.safetensors"},"weight_map":{"b":"m.safetensors"}})",
        R"({"weight_map":{"a":"m.safetensors"},"other":[1})",
        R"({"metadata":{},"weight_map":{"a":"m.safetensors"},"metadata":{}})",
        R"({"metadata":nul,"weight_map":{"a":"m.safetensors"}})"}) {
    EXPECT_FALSE(ParseShardIndex(text).ok()) << text;
  }
  const auto twice =
      ParseShardIndex(R"({"weight_map":{"a":"m.safetensors","\u0061":"n.safetensors"}})");
  EXPECT_THAT(twice.status().message(), HasSubstr("given twice"));
  EXPECT_FALSE(ParseShardIndex("{\"metadata\":{\"x\":" + std::string(100000, '[')).ok());
}

}  // namespace
}  // namespace tessera
