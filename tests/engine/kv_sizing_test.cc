#include "engine/kv_sizing.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace tessera {
namespace {

using testing::HasSubstr;

KvSizingInputs Inputs() {
  return {.kv_cache_bytes = 1000 * 64,
          .available_bytes = int64_t{8} << 30,
          .block_bytes = 64,
          .block_size = 16,
          .max_num_seqs = 4,
          .model_limit = 4096,
          .max_model_len = 0};
}

TEST(KvSizing, TakesWhatWasAskedFor) {
  const auto sizing = SizeKvCache(Inputs());
  ASSERT_TRUE(sizing.ok());
  EXPECT_EQ(sizing->num_blocks, 1000);
  EXPECT_EQ(sizing->max_model_len, 4096);
}

TEST(KvSizing, LowersTheContextToWhatFits) {
  KvSizingInputs inputs = Inputs();
  inputs.kv_cache_bytes = 100 * 64;
  EXPECT_EQ(SizeKvCache(inputs)->max_model_len, 1600);
}

TEST(KvSizing, AnExplicitContextIsNeverLowered) {
  KvSizingInputs inputs = Inputs();
  inputs.kv_cache_bytes = 100 * 64;
  inputs.max_model_len = 2000;
  const auto sizing = SizeKvCache(inputs);
  EXPECT_EQ(sizing.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(sizing.status().message(), HasSubstr("8000 bytes"));
  inputs.max_model_len = 1600;
  EXPECT_TRUE(SizeKvCache(inputs).ok());
}

TEST(KvSizing, AnExplicitContextMayExceedTheModels) {
  KvSizingInputs inputs = Inputs();
  inputs.max_model_len = 4097;
  ASSERT_TRUE(SizeKvCache(inputs).ok());
  EXPECT_EQ(SizeKvCache(inputs)->max_model_len, 4097);
}

TEST(KvSizing, DefaultsToAQuarterOfFreeMemory) {
  KvSizingInputs inputs = Inputs();
  inputs.kv_cache_bytes = 0;
  inputs.block_bytes = 1 << 20;
  inputs.max_num_seqs = 100;
  EXPECT_EQ(SizeKvCache(inputs)->num_blocks, 2048);  // of 8 GiB
  inputs.available_bytes = int64_t{100} << 30;
  EXPECT_EQ(SizeKvCache(inputs)->num_blocks, 4096);  // at most 4 GiB
  inputs.max_num_seqs = 2;
  EXPECT_EQ(SizeKvCache(inputs)->num_blocks, 1024);  // all that two sequences can use, twice
}

TEST(KvSizing, SaysWhenMemoryIsMissing) {
  KvSizingInputs inputs = Inputs();
  inputs.kv_cache_bytes = 0;
  inputs.available_bytes = 128;
  EXPECT_EQ(SizeKvCache(inputs).status().code(), absl::StatusCode::kResourceExhausted);
}

TEST(KvSizing, SlotNumbersStayIn32Bits) {
  KvSizingInputs inputs = Inputs();
  inputs.kv_cache_bytes = int64_t{1} << 60;
  const auto sizing = SizeKvCache(inputs);
  ASSERT_TRUE(sizing.ok());
  EXPECT_LE(int64_t{sizing->num_blocks} * inputs.block_size, int64_t{0x7fffffff});
}

}  // namespace
}  // namespace tessera
