#include "engine/checkpoint/safetensors.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <string>

#include "tests/engine/checkpoint/model_folder.h"
#include "tests/support/cpu_time.h"

namespace tessera {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::StartsWith;

constexpr std::string_view kGood =
    R"({"__metadata__":{"format":"pt"},)"
    R"("b":{"dtype":"F32","shape":[2,3],"data_offsets":[4,28]},)"
    R"("a":{"shape":[2],"data_offsets":[0,4],"dtype":"BF16"},)"
    R"("empty":{"dtype":"F16","shape":[0,7],"data_offsets":[28,28]},)"
    R"("scalar":{"dtype":"U8","shape":[],"data_offsets":[28,29]}}   )";
constexpr size_t kGoodData = 29;

TEST(SafetensorsTest, ReadsEveryTensor) {
  const ModelFolder folder;
  folder.Write("x.safetensors", SafetensorsBytes(kGood, kGoodData));
  const auto file = SafetensorsFile::Open(folder.Path("x.safetensors"));
  ASSERT_TRUE(file.ok()) << file.status();
  ASSERT_EQ((*file)->tensors().size(), 4U);
  EXPECT_EQ((*file)->tensors()[0].name, "a");
  EXPECT_EQ((*file)->Find("none"), nullptr);

  const SafetensorsEntry* b = (*file)->Find("b");
  ASSERT_NE(b, nullptr);
  EXPECT_EQ(b->dtype, DType::kF32);
  EXPECT_THAT(b->shape, ElementsAre(2, 3));
  EXPECT_EQ(b->num_bytes, 24);
  EXPECT_EQ(static_cast<int>(*(*file)->Map(*b).value()), 4);
  EXPECT_EQ((*file)->bytes_read(), 24);

  const auto slice =
      (*file)->MapSlice(*b, {.row_begin = 1, .num_rows = 1, .column_begin = 1, .num_columns = 2});
  ASSERT_TRUE(slice.ok()) << slice.status();
  EXPECT_EQ(static_cast<int>(*slice->data), 4 + 12 + 4);
  EXPECT_EQ(slice->row_stride, 12);
  EXPECT_EQ((*file)->bytes_read(), 24 + 8);

  (*file)->Release(*b);
  (*file)->Release(*(*file)->Find("empty"));
  EXPECT_EQ(static_cast<int>(*(*file)->Map(*b).value()), 4);
  EXPECT_EQ((*file)->Find("scalar")->num_bytes, 1);
  EXPECT_TRUE((*file)->MapSlice(*(*file)->Find("empty"), {.num_rows = 0}).ok());
}

// [2, 2, 3] is four rows of three.
TEST(SafetensorsTest, SlicesOfCubesAreCutFromTheLastDimension) {
  const ModelFolder folder;
  folder.Write(
      "x.safetensors",
      SafetensorsBytes(R"({"c":{"dtype":"BF16","shape":[2,2,3],"data_offsets":[0,24]}})", 24));
  const auto file = SafetensorsFile::Open(folder.Path("x.safetensors")).value();
  const SafetensorsEntry& cube = *file->Find("c");
  const auto slice =
      file->MapSlice(cube, {.row_begin = 2, .num_rows = 2, .column_begin = 1, .num_columns = 1});
  ASSERT_TRUE(slice.ok()) << slice.status();
  EXPECT_EQ(slice->row_stride, 6);
  EXPECT_EQ(slice->data - *file->Map(cube), 2 * 6 + 2);
  EXPECT_EQ(file->bytes_read(), 4 + 24);
  EXPECT_FALSE(file->MapSlice(cube, {.num_rows = 5, .num_columns = 1}).ok());
}

TEST(SafetensorsTest, SlicesStayInside) {
  const ModelFolder folder;
  folder.Write("x.safetensors", SafetensorsBytes(kGood, kGoodData));
  const auto file = SafetensorsFile::Open(folder.Path("x.safetensors")).value();
  const SafetensorsEntry& b = *file->Find("b");
  constexpr int64_t kHuge = INT64_MAX;
  for (const MatrixSlice& slice :
       {MatrixSlice{-1, 1, 0, 1}, MatrixSlice{0, 3, 0, 1}, MatrixSlice{1, kHuge, 0, 1},
        MatrixSlice{kHuge, 1, 0, 1}, MatrixSlice{0, 1, 2, 2}, MatrixSlice{0, 1, 0, -1},
        MatrixSlice{0, 1, kHuge, kHuge}}) {
    EXPECT_EQ(file->MapSlice(b, slice).status().code(), absl::StatusCode::kOutOfRange);
  }
  EXPECT_EQ(file->bytes_read(), 0);
}

struct Broken {
  std::string header;
  size_t data_bytes;
  std::string reason;
};

class BrokenHeaderTest : public testing::TestWithParam<Broken> {};

TEST_P(BrokenHeaderTest, IsRefusedInOneLine) {
  const ModelFolder folder;
  const std::string path = folder.Path("x.safetensors");
  folder.Write("x.safetensors", SafetensorsBytes(GetParam().header, GetParam().data_bytes));
  const auto file = SafetensorsFile::Open(path);
  ASSERT_FALSE(file.ok());
  const std::string message(file.status().message());
  EXPECT_THAT(message, StartsWith(path + ": "));
  EXPECT_THAT(message, HasSubstr(GetParam().reason));
  EXPECT_EQ(message.find('\n'), std::string::npos);
  EXPECT_LT(message.size(), 600U);
}

std::string One(const std::string& fields) { return "{\"w\":{" + fields + "}}"; }

INSTANTIATE_TEST_SUITE_P(
    Structure, BrokenHeaderTest,
    testing::Values(
        Broken{"", 0, "begin with"}, Broken{" {}", 0, "begin with"}, Broken{"{", 0, "malformed"},
        Broken{"{}x", 0, "behind the last brace"}, Broken{"{}\n", 0, "behind the last brace"},
        Broken{"[]", 0, "begin with"}, Broken{"{}", 1, "behind the last tensor"},
        Broken{R"({"__metadata__":{"a":1}})", 0, "not a string"},
        Broken{R"({"__metadata__":{"a":"1","a":"2"}})", 0, "twice"},
        Broken{R"({"__metadata__":{},"__metadata__":{}})", 0, "twice"},
        Broken{R"({"w":3})", 0, "tensor \"w\": must be an object"},
        Broken{R"({"w":{}})", 0, "tensor \"w\": no dtype"},
        Broken{One(R"("dtype":"F32")"), 0, "no shape"},
        Broken{One(R"("dtype":"F32","shape":[1])"), 4, "no data_offsets"},
        Broken{One(R"("dtype":"F32","dtype":"F32","shape":[1],"data_offsets":[0,4])"), 4, "twice"},
        Broken{One(R"("dtype":"F32","shape":[1],"shape":[1],"data_offsets":[0,4])"), 4, "twice"},
        Broken{One(R"("dtype":"F32","shape":[1],"data_offsets":[0,4],"x":1)"), 4, "\"x\" unknown"},
        Broken{One(R"("dtype":"Q4","shape":[1],"data_offsets":[0,4])"), 4, "unknown dtype \"Q4\""},
        Broken{One(R"("dtype":"F32","shape":[1,1,1,1,1,1,1,1,1],"data_offsets":[0,4])"), 4, "dim"},
        Broken{One(R"("dtype":"F32","shape":[-1],"data_offsets":[0,4])"), 4, "whole number"},
        Broken{One(R"("dtype":"F32","shape":[1.0],"data_offsets":[0,4])"), 4, "whole number"},
        Broken{One(R"("dtype":"F32","shape":[1e0],"data_offsets":[0,4])"), 4, "whole number"},
        Broken{One(R"("dtype":"F32","shape":[01],"data_offsets":[0,4])"), 4, "number"},
        Broken{One(R"("dtype":"F32","shape":["1"],"data_offsets":[0,4])"), 4, "whole number"},
        Broken{One(R"("dtype":"F32","shape":[1],"data_offsets":[0,4,8])"), 4, "two numbers"},
        Broken{One(R"("dtype":"F32","shape":[1],"data_offsets":[0])"), 4, "two numbers"},
        Broken{One(R"("dtype":"F32","shape":[9007199254740993],"data_offsets":[0,4])"), 4, "2^53"},
        Broken{"{\"\xff\":{}}", 0, "UTF-8"}, Broken{"{\"\xc0\xaf\":{}}", 0, "UTF-8"},
        Broken{"{\"\xed\xa0\x80\":{}}", 0, "UTF-8"},
        Broken{"{\"\xf4\x90\x80\x80\":{}}", 0, "UTF-8"}, Broken{"{\"a\nb\":{}}", 0, "escaped"},
        Broken{R"({"\ud800":{}})", 0, "string"}, Broken{R"({"\q":{}})", 0, "string"},
        Broken{"{\"" + std::string(600, 'n') + "\":{}}", 0, "more than 512"},
        Broken{R"({"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},)"
               R"("\u0077":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}})",
               8, "given twice"}));

INSTANTIATE_TEST_SUITE_P(
    Layout, BrokenHeaderTest,
    testing::Values(
        Broken{One(R"("dtype":"F32","shape":[2],"data_offsets":[0,4])"), 4, "do not hold 8 bytes"},
        Broken{One(R"("dtype":"F32","shape":[1],"data_offsets":[4,0])"), 4, "do not hold"},
        Broken{One(R"("dtype":"F32","shape":[1],"data_offsets":[4,8])"), 8, "hole"},
        Broken{One(R"("dtype":"F32","shape":[4],"data_offsets":[0,16])"), 12, "truncated"},
        Broken{One(R"("dtype":"F4","shape":[3],"data_offsets":[0,2])"), 2, "whole bytes"},
        Broken{One(R"("dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0])"), 0,
               "more elements"},
        Broken{One(R"("dtype":"F64","shape":[2251799813685248],"data_offsets":[0,4])"), 4,
               "do not hold"},
        Broken{One(R"("dtype":"U8","shape":[9007199254740992],)"
                   R"("data_offsets":[0,9007199254740992])"),
               4, "truncated"},
        Broken{R"({"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},)"
               R"("v":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}})",
               8, "tensor \"v\": overlaps"},
        Broken{R"({"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},)"
               R"("v":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})",
               8, "overlaps"}));

TEST(SafetensorsTest, AcceptsWhatTheFormatAllows) {
  for (const auto& [header, bytes] : {std::pair<std::string, size_t>{"{}", 0},
                                      {"{ \n\t\"w\" : { \"dtype\":\"F32\" , \"shape\":[ 1 ] , "
                                       "\"data_offsets\":[ 0 , 4 ] } }  ",
                                       4},
                                      {R"({"\u00e9\ud83d\ude00":{"dtype":"F4","shape":[2],)"
                                       R"("data_offsets":[0,1]}})",
                                       1},
                                      {R"({"__metadata__":{"a":"\"}{"}})", 0}}) {
    const ModelFolder folder;
    folder.Write("x.safetensors", SafetensorsBytes(header, bytes));
    EXPECT_TRUE(SafetensorsFile::Open(folder.Path("x.safetensors")).ok()) << header;
  }
}

TEST(SafetensorsTest, HeaderSizesThatLie) {
  const ModelFolder folder;
  const std::string path = folder.Path("x.safetensors");
  const std::string good = SafetensorsBytes(kGood, kGoodData);
  for (const std::string& bytes :
       {std::string(), std::string(7, '\0'), std::string(8, '\xff'),
        std::string("\x01\0\0\0\0\0\0\x80{", 9), std::string("\xff\xe0\xf5\x05\0\0\0\0{}", 10),
        std::string("\x01\xe1\xf5\x05\0\0\0\0{}", 10), std::string(8, '\0'),
        good.substr(0, good.size() - 1), good + "x", good.substr(0, 100)}) {
    folder.Write("x.safetensors", bytes);
    const auto file = SafetensorsFile::Open(path);
    ASSERT_FALSE(file.ok());
    EXPECT_THAT(std::string(file.status().message()), StartsWith(path + ": "));
  }
}

TEST(SafetensorsTest, OnlyRegularFilesAreOpened) {
  const ModelFolder folder;
  EXPECT_EQ(SafetensorsFile::Open(folder.Path("none")).status().code(),
            absl::StatusCode::kNotFound);
  EXPECT_THAT(SafetensorsFile::Open(folder.path()).status().message(), HasSubstr("regular file"));
  ASSERT_EQ(::mkfifo(folder.Path("pipe").c_str(), 0600), 0);
  EXPECT_THAT(SafetensorsFile::Open(folder.Path("pipe")).status().message(),
              HasSubstr("regular file"));
  std::filesystem::create_symlink("pipe", folder.Path("link"));
  EXPECT_THAT(SafetensorsFile::Open(folder.Path("link")).status().message(),
              HasSubstr("regular file"));
  std::filesystem::create_symlink("loop", folder.Path("loop"));
  EXPECT_FALSE(SafetensorsFile::Open(folder.Path("loop")).ok());
}

TEST(SafetensorsTest, NoticesTruncationAfterOpening) {
  const ModelFolder folder;
  const std::string path = folder.Path("x.safetensors");
  folder.Write("x.safetensors", SafetensorsBytes(kGood, kGoodData));
  const auto file = SafetensorsFile::Open(path).value();
  ASSERT_EQ(::truncate(path.c_str(), 20), 0);
  const SafetensorsEntry& b = *file->Find("b");
  EXPECT_EQ(file->Map(b).status().code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(file->MapSlice(b, {.num_rows = 1, .num_columns = 1}).status().code(),
            absl::StatusCode::kDataLoss);
}

TEST(SafetensorsTest, HugeSparseFilesAreRefusedQuicklyWithoutMemory) {
  const ModelFolder folder;
  const std::string path = folder.Path("x.safetensors");
  std::string bytes("\0\xe1\xf5\x05\0\0\0\0{", 9);  // a header of 100,000,000 bytes: NULs
  folder.Write("x.safetensors", bytes);
  std::filesystem::resize_file(path, uintmax_t{1} << 40);
  const double start = ThreadCpuSeconds();
  EXPECT_FALSE(SafetensorsFile::Open(path).ok());
  EXPECT_LT(ThreadCpuSeconds() - start, 1 * kSlowdown);
}

// 100 MB of header that is well-formed to the last byte but one.
TEST(SafetensorsTest, TheLargestHeaderTakesLessThanTwoSeconds) {
  std::string header = R"({"__metadata__":{"filler":")";
  header += std::string(static_cast<size_t>(kMaxSafetensorsHeaderBytes) - header.size() - 1, 'x');
  header += '"';
  const double start = ThreadCpuSeconds();
  EXPECT_FALSE(ParseSafetensorsHeader(header, kMaxSafetensorsHeaderBytes + 8).ok());
  EXPECT_LT(ThreadCpuSeconds() - start, 2 * kSlowdown);
}

}  // namespace
}  // namespace tessera
