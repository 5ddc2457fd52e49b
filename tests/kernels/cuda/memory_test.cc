// Memory of emulated GPUs that is allocated, filled and copied in large pieces, of which one record
// is kept: it behaves as if every byte had its own.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <vector>

#include "kernels/cuda/emulation/emulator.h"
#include "kernels/cuda/fake/emulated_gpus.h"
#include "tests/kernels/cuda/controls/controls.h"
#include "tests/kernels/cuda/gpu_array.h"

namespace tessera {
namespace {

using cuda::AddOne;  // on 256 floats
using simt::fake::AnyReport;
using testing::Each;
using testing::HasSubstr;

constexpr size_t kFloats = 10'000;  // several whole chunks of 4096 bytes, and parts at both ends
constexpr size_t kMiddle = 5'000;   // in a whole chunk
constexpr size_t kBytes = kFloats * sizeof(float);

size_t ResidentBytes() {
  size_t total = 0, resident = 0;
  std::ifstream("/proc/self/statm") >> total >> resident;
  return resident * static_cast<size_t>(sysconf(_SC_PAGESIZE));
}

class LargeMemory : public testing::Test {
 protected:
  void SetUp() override {
    ASSERT_EQ(cudaSetDevice(0), cudaSuccess);
    for (cudaStream_t* stream : {&a_, &b_}) {
      ASSERT_EQ(cudaStreamCreateWithFlags(stream, cudaStreamNonBlocking), cudaSuccess);
    }
  }
  void TearDown() override {
    simt::fake::Reset();
    for (cudaStream_t stream : {a_, b_}) cudaStreamDestroy(stream);
  }

  GpuArray<float> x_{kFloats};
  GpuArray<float> y_{std::vector<float>(kFloats, 1.0F)};
  cudaStream_t a_ = nullptr, b_ = nullptr;
};

TEST_F(LargeMemory, IsUnwrittenAtFirstForKernelsAndCopies) {
  EXPECT_EQ(AddOne(a_, x_.get() + kMiddle, y_.get(), true), cudaSuccess);
  EXPECT_EQ(cudaStreamSynchronize(a_), cudaErrorLaunchFailure);
  EXPECT_THAT(AnyReport(), HasSubstr("nobody has written"));
  simt::fake::Reset();
  std::vector<float> back(kFloats);
  cudaMemcpy(back.data(), x_.get() + kMiddle, 4, cudaMemcpyDeviceToHost);
  EXPECT_THAT(AnyReport(), HasSubstr("nobody has written"));
}

TEST_F(LargeMemory, IsWrittenByTheByte) {
  ASSERT_EQ(AddOne(a_, y_.get(), x_.get() + kMiddle, true), cudaSuccess);
  ASSERT_EQ(cudaStreamSynchronize(a_), cudaSuccess) << AnyReport();
  std::vector<float> back(256);
  ASSERT_EQ(cudaMemcpy(back.data(), x_.get() + kMiddle, 1024, cudaMemcpyDeviceToHost), cudaSuccess);
  EXPECT_THAT(back, Each(2.0F));
  cudaMemcpy(back.data(), x_.get() + kMiddle - 1, 1024, cudaMemcpyDeviceToHost);
  EXPECT_THAT(AnyReport(), HasSubstr("nobody has written"));
}

TEST_F(LargeMemory, HoldsWhatFillsAndCopiesStore) {
  std::vector<float> expected(kFloats, 0.0F);
  for (size_t i = 0; i < kFloats; ++i) expected[i] = static_cast<float>(i);
  ASSERT_EQ(cudaMemset(x_.get(), 0, kBytes), cudaSuccess);
  EXPECT_THAT(x_.Values(), Each(0.0F));
  ASSERT_EQ(cudaMemcpy(x_.get(), expected.data(), kBytes, cudaMemcpyHostToDevice), cudaSuccess);
  EXPECT_EQ(x_.Values(), expected);
  // A fill of a part of it that is not whole chunks, over data.
  ASSERT_EQ(cudaMemset(x_.get() + 1, 0, kBytes / 2), cudaSuccess);
  std::fill_n(expected.begin() + 1, kFloats / 2, 0.0F);
  EXPECT_EQ(x_.Values(), expected);
  ASSERT_EQ(cudaMemcpy(y_.get(), x_.get(), kBytes, cudaMemcpyDeviceToDevice), cudaSuccess);
  EXPECT_EQ(y_.Values(), expected);
  ASSERT_EQ(cudaMemset(y_.get(), 0, kBytes), cudaSuccess);
  EXPECT_THAT(y_.Values(), Each(0.0F));
}

TEST_F(LargeMemory, AFillThatNothingOrdersIsARaceWithWhoComesAfterIt) {
  ASSERT_EQ(cudaMemsetAsync(x_.get(), 0, kBytes, b_), cudaSuccess);
  ASSERT_EQ(AddOne(a_, y_.get(), x_.get() + kMiddle, true), cudaSuccess);
  cudaStreamSynchronize(b_);
  EXPECT_EQ(cudaStreamSynchronize(a_), cudaErrorLaunchFailure);
  EXPECT_THAT(AnyReport(), HasSubstr("not ordered after the store by 'fill'"));
}

TEST_F(LargeMemory, AFillIsARaceWithTheFillBeforeIt) {
  ASSERT_EQ(cudaMemsetAsync(x_.get(), 0, kBytes, b_), cudaSuccess);
  ASSERT_EQ(cudaMemsetAsync(x_.get(), 0, kBytes, a_), cudaSuccess);
  cudaStreamSynchronize(b_);
  cudaStreamSynchronize(a_);
  EXPECT_THAT(AnyReport(), HasSubstr("not ordered after an access by 'fill'"));
}

TEST_F(LargeMemory, AFillIsARaceWithTheKernelBeforeIt) {
  for (const bool stores : {false, true}) {
    ASSERT_EQ(cudaMemset(x_.get(), 0, kBytes), cudaSuccess);
    float* middle = x_.get() + kMiddle;
    ASSERT_EQ(AddOne(b_, stores ? y_.get() : middle, stores ? middle : y_.get(), true),
              cudaSuccess);
    ASSERT_EQ(cudaMemsetAsync(x_.get(), 0, kBytes, a_), cudaSuccess);
    cudaStreamSynchronize(b_);
    cudaStreamSynchronize(a_);
    EXPECT_THAT(AnyReport(), HasSubstr("not ordered after an access by "));
    EXPECT_THAT(AnyReport(), HasSubstr("AddOneKernel"));
    simt::fake::Reset();
  }
}

TEST_F(LargeMemory, EndsWhereItEnds) {
  cudaMemset(x_.get(), 0, kBytes + 1);
  EXPECT_THAT(AnyReport(), HasSubstr("outside"));
}

TEST_F(LargeMemory, IsNobodysAfterItIsFreed) {
  float* freed = nullptr;
  ASSERT_EQ(cudaMalloc(reinterpret_cast<void**>(&freed), kBytes), cudaSuccess);
  ASSERT_EQ(cudaMemset(freed, 0, kBytes), cudaSuccess);
  ASSERT_EQ(cudaFree(freed), cudaSuccess);
  EXPECT_EQ(AddOne(a_, freed + kMiddle, y_.get(), true), cudaSuccess);
  EXPECT_EQ(cudaStreamSynchronize(a_), cudaErrorLaunchFailure);
  EXPECT_THAT(AnyReport(), HasSubstr("outside"));
  simt::fake::Reset();
  cudaMemset(freed, 0, kBytes);
  EXPECT_THAT(AnyReport(), HasSubstr("outside"));
}

// A cache of gigabytes is cleared in no time, and takes no memory of the system before it is used.
TEST_F(LargeMemory, CostsNothingUntilItIsUsed) {
  constexpr size_t kLarge = size_t{3} << 30;
  const size_t before = ResidentBytes();
  char* large = nullptr;
  ASSERT_EQ(cudaMalloc(reinterpret_cast<void**>(&large), kLarge), cudaSuccess);
  ASSERT_EQ(cudaMemset(large, 0, kLarge), cudaSuccess);
  std::vector<char> back(100, 'x');
  ASSERT_EQ(cudaMemcpy(back.data(), large + kLarge - 100, 100, cudaMemcpyDeviceToHost),
            cudaSuccess);
  EXPECT_THAT(back, Each('\0'));
  EXPECT_LT(ResidentBytes(), before + (size_t{64} << 20));
  ASSERT_EQ(cudaFree(large), cudaSuccess);
}

}  // namespace
}  // namespace tessera
