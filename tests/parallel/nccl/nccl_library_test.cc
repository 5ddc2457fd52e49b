#include "parallel/nccl/nccl_library.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

namespace tessera::cuda {
namespace {

using testing::HasSubstr;

// One sentence: what is needed, what is wrong, what to install.
void ExpectRefusal(const std::string& file, const std::string& why) {
  const absl::Status status = LoadNccl(file).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition) << status;
  const std::string message(status.message());
  EXPECT_THAT(message, HasSubstr("several GPUs need NCCL 2.18.1 or newer"));
  EXPECT_THAT(message, HasSubstr(why));
  EXPECT_THAT(message, HasSubstr("install NVIDIA's libnccl2"));
  EXPECT_THAT(message, testing::Not(HasSubstr("\n")));
}

TEST(NcclLibraryTest, SaysWhatIsMissing) {
  ExpectRefusal("/nonexistent/libnccl.so.2", "/nonexistent/libnccl.so.2");
  ExpectRefusal(TESSERA_OLD_NCCL, "is version 2.17.1");
  ExpectRefusal(TESSERA_PARTIAL_NCCL, "has no function ncclGetErrorString");
  ExpectRefusal("libm.so.6", "does not tell its version");
}

TEST(NcclLibraryTest, NamesVersions) {
  EXPECT_EQ(NcclVersionName(22809), "2.28.9");
  EXPECT_EQ(NcclVersionName(21801), "2.18.1");
}

// The real one, where it is installed. It loads without a driver.
TEST(NcclLibraryTest, LoadsWhatIsInstalled) {
  const absl::StatusOr<NcclLibrary> library = LoadNccl(TESSERA_INSTALLED_NCCL);
  if (std::string(TESSERA_INSTALLED_NCCL).empty()) GTEST_SKIP() << "no NCCL is installed";
  ASSERT_TRUE(library.ok()) << library.status();
  EXPECT_GE(library->version, 21801);
  EXPECT_STREQ(library->get_error_string(ncclSuccess), "no error");
}

}  // namespace
}  // namespace tessera::cuda
