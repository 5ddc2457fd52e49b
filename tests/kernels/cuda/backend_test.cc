// The backend for GPUs on a machine that has none, as the machines of our tests as a rule.
#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/strings/match.h"
#include "kernels/ops.h"

namespace tessera::test {
namespace {

TEST(CudaBackendTest, SaysInOneSentenceWhatIsMissing) {
  const absl::StatusOr<std::unique_ptr<Ops>> ops = CreateOps({.backend = "cuda", .num_threads = 1});
  if (ops.ok()) GTEST_SKIP() << "this machine has a GPU";
  EXPECT_EQ(ops.status().code(), absl::StatusCode::kInvalidArgument);
  const std::string message(ops.status().message());
#ifdef TESSERA_CUDA
  EXPECT_TRUE(absl::StartsWith(message, "no GPU to run on: ")) << message;
#else
  EXPECT_TRUE(absl::StrContains(message, "built without GPU kernels")) << message;
#endif
  EXPECT_FALSE(absl::StrContains(message, '\n')) << message;

  const BackendChoice choice = ChooseBackend();
  EXPECT_EQ(choice.backend, "cpu");
  EXPECT_EQ(choice.why, message);
  const std::vector<std::string_view> linked = LinkedBackends();
  EXPECT_EQ(std::count(linked.begin(), linked.end(), "cuda"), 0) << "tests would run on it";
}

}  // namespace
}  // namespace tessera::test
