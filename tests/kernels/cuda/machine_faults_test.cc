// What is said of machines whose GPUs cannot be used, and of GPUs that vanish.
#include "kernels/cuda/fake/machine_faults.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <memory>
#include <string>

#include "kernels/cuda/cuda_error.h"
#include "kernels/cuda/cuda_ops.h"
#include "kernels/cuda/emulation/emulator.h"
#include "kernels/cuda/fake/emulated_gpus.h"

namespace tessera::test {
namespace {

using simt::fake::MachineFaults;
using testing::AllOf;
using testing::HasSubstr;
using testing::Not;

class MachineFaultsTest : public testing::Test {
 protected:
  ~MachineFaultsTest() override {
    simt::fake::SetFaults(MachineFaults());
    simt::emulation::SetOptions(options_);
    simt::fake::Reset();
  }

  void SetGpus(int count) {
    simt::emulation::Options options = options_;
    options.devices = count;
    simt::emulation::SetOptions(options);
  }

  // What a user is told, by name and by choice.
  static void ExpectRefusal(const std::string& why) {
    const absl::Status status = CreateEmulatedCudaOps({.device_index = 0}).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
    EXPECT_THAT(std::string(status.message()), AllOf(HasSubstr(why), Not(HasSubstr("\n"))));
    EXPECT_EQ(cuda::DescribeGpus().status(), status);
  }

  const simt::emulation::Options options_ = simt::emulation::GetOptions();
};

TEST_F(MachineFaultsTest, NoDriver) {
  simt::fake::SetFaults({.driver_version = 0});
  ExpectRefusal("no GPU to run on: this machine has no NVIDIA driver");
}

TEST_F(MachineFaultsTest, OldDriver) {
  simt::fake::SetFaults({.driver_version = 12020});
  ExpectRefusal("is made for CUDA 12.2, but this program needs 13.0");
}

TEST_F(MachineFaultsTest, NoGpu) {
  SetGpus(0);
  ExpectRefusal("the NVIDIA driver finds no GPU in this machine");
}

TEST_F(MachineFaultsTest, GpusAreDescribed) {
  SetGpus(1);
  EXPECT_EQ(*cuda::DescribeGpus(), "1 GPU (Emulated GPU (sm_90))");
  SetGpus(3);
  simt::fake::SetFaults({.names = {"Alpha", "Beta", "Alpha"}});
  EXPECT_EQ(*cuda::DescribeGpus(), "3 GPUs (Alpha, Beta)");
}

class LostGpuTest : public MachineFaultsTest, public testing::WithParamInterface<const char*> {};

INSTANTIATE_TEST_SUITE_P(Drivers, LostGpuTest,
                         testing::Values("", "uncorrectable ECC error encountered (Xid 48)"));

TEST_P(LostGpuTest, FailsItsDeviceForGood) {
  const std::string said = GetParam();
  const std::string file = testing::TempDir() + "tessera_vanished_gpu";
  std::filesystem::remove(file);
  simt::fake::SetFaults({.vanishing_gpu = 1, .vanishes_with = file});
  const std::unique_ptr<Ops> lost = *CreateEmulatedCudaOps({.device_index = 1});
  const std::unique_ptr<Ops> other = *CreateEmulatedCudaOps({.device_index = 0});
  EXPECT_TRUE(lost->device().Synchronize().ok());
  std::ofstream(file) << said;
  const absl::Status status = lost->device().Synchronize();
  std::filesystem::remove(file);
  EXPECT_EQ(status.code(), absl::StatusCode::kInternal);
  EXPECT_THAT(std::string(status.message()),
              HasSubstr("GPU 1: " + (said.empty() ? "the GPU is lost (Xid 79)" : said)));
  EXPECT_EQ(lost->device().Synchronize(), status);
  EXPECT_EQ(lost->device().memory(), std::nullopt);
  EXPECT_TRUE(other->device().Synchronize().ok());
}

}  // namespace
}  // namespace tessera::test
