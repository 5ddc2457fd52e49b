#include "engine/checkpoint/checkpoint.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <string>

#include "tests/engine/checkpoint/model_folder.h"

namespace tessera {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

constexpr std::string_view kIndexName = "model.safetensors.index.json";

std::string Tensor(const std::string& name) {
  return SafetensorsBytes(
      R"({")" + name + R"(":{"dtype":"BF16","shape":[2],"data_offsets":[0,4]}})", 4);
}

TEST(CheckpointTest, ReadsShards) {
  const ModelFolder folder;
  folder.Write("1.safetensors", Tensor("b"));
  folder.Write("2.safetensors", Tensor("a"));
  folder.Write("3.safetensors", "not looked at");
  folder.Write(kIndexName, R"({"metadata":{"total_size":8},
                              "weight_map":{"b":"1.safetensors","a":"2.safetensors"}})");
  const auto checkpoint = Checkpoint::Open(folder.path());
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  EXPECT_THAT((*checkpoint)->names(), ElementsAre("a", "b"));
  EXPECT_EQ((*checkpoint)->total_bytes(), 8);
  EXPECT_THAT((*checkpoint)->warnings(), IsEmpty());
  const StoredTensor a = (*checkpoint)->Find("a");
  ASSERT_NE(a.file, nullptr);
  EXPECT_EQ(a.file->path(), folder.Path("2.safetensors"));
  EXPECT_TRUE(a.Map().ok());
  EXPECT_TRUE(a.MapSlice({.num_rows = 1, .num_columns = 1}).ok());
  a.Release();
  EXPECT_EQ((*checkpoint)->bytes_read(), 6);
  EXPECT_FALSE((*checkpoint)->Contains("c"));
}

TEST(CheckpointTest, TheSingleFileWins) {
  const ModelFolder folder;
  folder.Write("model.safetensors", Tensor("single"));
  folder.Write(kIndexName, "broken");
  const auto checkpoint = Checkpoint::Open(folder.path());
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  EXPECT_THAT((*checkpoint)->names(), ElementsAre("single"));
}

TEST(CheckpointTest, MissingFilesAreNamed) {
  const ModelFolder folder;
  const auto nothing = Checkpoint::Open(folder.path());
  EXPECT_EQ(nothing.status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(nothing.status().message(), HasSubstr("holds neither"));
  folder.Write(kIndexName, R"({"weight_map":{"b":"1.safetensors"}})");
  EXPECT_THAT(Checkpoint::Open(folder.path()).status().message(),
              HasSubstr(folder.Path("1.safetensors")));
}

TEST(CheckpointTest, IndexAndShardsMustAgree) {
  const ModelFolder folder;
  folder.Write("1.safetensors", Tensor("a"));
  folder.Write("2.safetensors", Tensor("b"));
  folder.Write(kIndexName, R"({"weight_map":{"a":"1.safetensors","x":"2.safetensors"}})");
  EXPECT_THAT(Checkpoint::Open(folder.path()).status().message(),
              HasSubstr("2.safetensors: tensor \"x\": missing"));
  // A tensor the index places elsewhere.
  folder.Write("2.safetensors",
               SafetensorsBytes(R"({"a":{"dtype":"BF16","shape":[1],"data_offsets":[0,2]},)"
                                R"("x":{"dtype":"BF16","shape":[1],"data_offsets":[2,4]}})",
                                4));
  EXPECT_THAT(Checkpoint::Open(folder.path()).status().message(),
              HasSubstr("2.safetensors: tensor \"a\": "));
  // One no shard is listed for, but two shards hold.
  const auto both = [](const std::string& own) {
    return SafetensorsBytes(R"({")" + own +
                                R"(":{"dtype":"BF16","shape":[1],"data_offsets":[0,2]},)"
                                R"("x":{"dtype":"BF16","shape":[1],"data_offsets":[2,4]}})",
                            4);
  };
  folder.Write("1.safetensors", both("a"));
  folder.Write("2.safetensors", both("b"));
  folder.Write(kIndexName, R"({"weight_map":{"a":"1.safetensors","b":"2.safetensors"}})");
  EXPECT_THAT(Checkpoint::Open(folder.path()).status().message(), HasSubstr("\"x\": also in"));
}

TEST(CheckpointTest, WrongTotalsAndUnlistedTensorsAreWarnings) {
  const ModelFolder folder;
  folder.Write("1.safetensors", Tensor("a"));
  folder.Write("2.safetensors",
               SafetensorsBytes(R"({"b":{"dtype":"BF16","shape":[1],"data_offsets":[0,2]},)"
                                R"("x":{"dtype":"BF16","shape":[1],"data_offsets":[2,4]}})",
                                4));
  folder.Write(kIndexName, R"({"metadata":{"total_size":7},
                              "weight_map":{"a":"1.safetensors","b":"2.safetensors"}})");
  const auto checkpoint = Checkpoint::Open(folder.path());
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  EXPECT_THAT((*checkpoint)->warnings(), SizeIs(2));
}

// A Hugging Face cache keeps snapshots/ID/NAME -> ../../blobs/HASH.
TEST(CheckpointTest, FollowsLinksToRegularFiles) {
  const ModelFolder folder;
  std::filesystem::create_directories(folder.Path("snapshots/1"));
  std::filesystem::create_directories(folder.Path("blobs"));
  folder.Write("blobs/abc", Tensor("a"));
  std::filesystem::create_symlink("../../blobs/abc", folder.Path("snapshots/1/model.safetensors"));
  const auto checkpoint = Checkpoint::Open(folder.Path("snapshots/1"));
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  EXPECT_TRUE((*checkpoint)->Contains("a"));
}

TEST(CheckpointTest, RefusesLinksToAnythingElseAndNamesOutsideTheFolder) {
  const ModelFolder folder;
  std::filesystem::create_symlink("/dev/zero", folder.Path("1.safetensors"));
  folder.Write(kIndexName, R"({"weight_map":{"a":"1.safetensors"}})");
  EXPECT_THAT(Checkpoint::Open(folder.path()).status().message(), HasSubstr("not a regular file"));
  std::filesystem::create_directories(folder.Path("model"));
  folder.Write("secret.safetensors", Tensor("a"));
  folder.Write("model/model.safetensors.index.json",
               R"({"weight_map":{"a":"../secret.safetensors"}})");
  const auto escaped = Checkpoint::Open(folder.Path("model"));
  EXPECT_THAT(escaped.status().message(), HasSubstr("plain name"));
  EXPECT_THAT(escaped.status().message(), HasSubstr("model/model.safetensors.index.json: "));
}

}  // namespace
}  // namespace tessera
