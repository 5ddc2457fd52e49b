// The fake runtime: order between streams, late work, sticky errors, graphs, several GPUs.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "kernels/cuda/emulation/emulator.h"
#include "kernels/cuda/fake/emulated_gpus.h"
#include "tests/kernels/cuda/controls/controls.h"
#include "tests/kernels/cuda/gpu_array.h"

namespace tessera {
namespace {

using cuda::AddOne;
using simt::fake::AnyReport;
using simt::fake::Report;
using testing::HasSubstr;
namespace emulation = simt::emulation;

constexpr int kFloats = 256;
constexpr size_t kBytes = kFloats * sizeof(float);

// Every test under ten seeds.
class Runtime : public testing::TestWithParam<uint64_t> {
 protected:
  void SetUp() override {
    emulation::Options options;
    options.seed = GetParam();
    options.patience_milliseconds = 50;
    emulation::SetOptions(options);
    ASSERT_EQ(cudaSetDevice(0), cudaSuccess);
    for (cudaStream_t* stream : {&a_, &b_}) {
      ASSERT_EQ(cudaStreamCreateWithFlags(stream, cudaStreamNonBlocking), cudaSuccess);
    }
    ASSERT_EQ(cudaEventCreateWithFlags(&event_, cudaEventDisableTiming), cudaSuccess);
    ASSERT_EQ(cudaMallocHost(reinterpret_cast<void**>(&host_), kBytes), cudaSuccess);
    for (int i = 0; i < kFloats; ++i) host_[i] = static_cast<float>(i);
  }
  void TearDown() override {
    simt::fake::Reset();
    cudaSetDevice(0);
    for (cudaStream_t stream : {a_, b_}) cudaStreamDestroy(stream);
    cudaEventDestroy(event_);
    cudaFreeHost(host_);
    EXPECT_EQ(AnyReport(), "");
    emulation::SetOptions(emulation::OptionsFromEnvironment());
  }

  cudaStream_t a_ = nullptr, b_ = nullptr;
  cudaEvent_t event_ = nullptr;
  float* host_ = nullptr;  // 0, 1, 2, ...
};
INSTANTIATE_TEST_SUITE_P(Seeds, Runtime, testing::Range<uint64_t>(1, 11));

TEST_P(Runtime, AnEventOrdersStreams) {
  GpuArray<float> x(kFloats), y(kFloats), z(kFloats);
  ASSERT_EQ(cudaMemcpyAsync(x.get(), host_, kBytes, cudaMemcpyHostToDevice, a_), cudaSuccess);
  ASSERT_EQ(AddOne(a_, x.get(), y.get(), true), cudaSuccess);
  ASSERT_EQ(cudaEventRecord(event_, a_), cudaSuccess);
  ASSERT_EQ(cudaStreamWaitEvent(b_, event_, 0), cudaSuccess);
  ASSERT_EQ(AddOne(b_, y.get(), z.get(), true), cudaSuccess);
  EXPECT_EQ(cudaStreamSynchronize(b_), cudaSuccess) << AnyReport();
  EXPECT_EQ(z.Values()[3], 5);
}

TEST_P(Runtime, AMissingEventIsARace) {
  GpuArray<float> x(std::vector<float>(kFloats, 0.0F)), y(std::vector<float>(kFloats, 0.0F)),
      z(kFloats);
  ASSERT_EQ(AddOne(a_, x.get(), y.get(), true), cudaSuccess);
  ASSERT_EQ(AddOne(b_, y.get(), z.get(), true), cudaSuccess);
  cudaStreamSynchronize(b_);
  cudaStreamSynchronize(a_);
  EXPECT_THAT(AnyReport(), HasSubstr("not ordered after the"));
  EXPECT_THAT(AnyReport(), HasSubstr("of 'AddOneKernel'"));
}

TEST_P(Runtime, ACopyWithoutAnEventIsARace) {
  GpuArray<float> x(std::vector<float>(kFloats, 0.0F)), y(std::vector<float>(kFloats, 0.0F));
  ASSERT_EQ(AddOne(a_, x.get(), y.get(), true), cudaSuccess);
  ASSERT_EQ(cudaMemcpyAsync(host_, y.get(), kBytes, cudaMemcpyDeviceToHost, b_), cudaSuccess);
  cudaStreamSynchronize(b_);
  cudaStreamSynchronize(a_);
  EXPECT_THAT(AnyReport(), HasSubstr("not ordered after"));
}

TEST_P(Runtime, AMissingGridDependencyWaitIsReported) {
  GpuArray<float> x(std::vector<float>(kFloats, 0.0F)), y(kFloats), z(kFloats);
  ASSERT_EQ(AddOne(a_, x.get(), y.get(), true), cudaSuccess);
  ASSERT_EQ(AddOne(a_, y.get(), z.get(), false), cudaSuccess);
  EXPECT_EQ(cudaStreamSynchronize(a_), cudaErrorLaunchFailure);
  EXPECT_THAT(AnyReport(), HasSubstr("before griddepcontrol.wait"));
  EXPECT_THAT(AnyReport(), HasSubstr("of 'AddOneKernel'"));
}

TEST_P(Runtime, WhatTheHostHasWaitedForNeedsNoGridDependencyWait) {
  GpuArray<float> x(std::vector<float>(kFloats, 0.0F)), y(kFloats), z(kFloats);
  ASSERT_EQ(AddOne(a_, x.get(), y.get(), true), cudaSuccess);
  ASSERT_EQ(cudaStreamSynchronize(a_), cudaSuccess);
  ASSERT_EQ(AddOne(a_, y.get(), z.get(), false), cudaSuccess);
  EXPECT_EQ(cudaStreamSynchronize(a_), cudaSuccess) << AnyReport();
}

TEST_P(Runtime, NothingRunsBeforeTheHostWaitsAndThenNoMoreThanNeeded) {
  GpuArray<float> x(kFloats), y(kFloats);
  std::vector<uint32_t> back(kFloats);
  const uint64_t before = emulation::Counters().launches;
  ASSERT_EQ(cudaMemcpyAsync(x.get(), host_, kBytes, cudaMemcpyHostToDevice, a_), cudaSuccess);
  ASSERT_EQ(cudaEventRecord(event_, a_), cudaSuccess);
  ASSERT_EQ(AddOne(a_, x.get(), y.get(), true), cudaSuccess);
  ASSERT_EQ(cudaMemcpyAsync(back.data(), x.get(), kBytes, cudaMemcpyDeviceToHost, b_), cudaSuccess);
  EXPECT_EQ(emulation::Counters().launches, before);
  ASSERT_EQ(cudaEventSynchronize(event_), cudaSuccess);
  EXPECT_EQ(emulation::Counters().launches, before);  // the kernel is behind the event
  EXPECT_EQ(back[0], 0xa5a5a5a5U);                    // nobody has waited for the copy back
}

TEST_P(Runtime, PollingAnEventGetsThere) {
  GpuArray<float> x(std::vector<float>(kFloats, 0.0F)), y(kFloats);
  ASSERT_EQ(AddOne(a_, x.get(), y.get(), true), cudaSuccess);
  ASSERT_EQ(cudaEventRecord(event_, a_), cudaSuccess);
  int polls = 0;
  while (cudaEventQuery(event_) == cudaErrorNotReady) {
    ASSERT_LT(++polls, 10);
  }
  EXPECT_EQ(cudaEventQuery(event_), cudaSuccess);
}

TEST_P(Runtime, HostMemoryThatChangesBeforeItIsCopiedIsReported) {
  GpuArray<float> x(kFloats);
  ASSERT_EQ(cudaMemcpyAsync(x.get(), host_, kBytes, cudaMemcpyHostToDevice, a_), cudaSuccess);
  host_[3] = 99;
  EXPECT_EQ(cudaStreamSynchronize(a_), cudaErrorLaunchFailure);
  EXPECT_THAT(AnyReport(), HasSubstr("the host memory changed"));
}

TEST_P(Runtime, ErrorsStick) {
  GpuArray<float> x(kFloats), y(std::vector<float>(kFloats, 0.0F));  // x is not written
  ASSERT_EQ(AddOne(a_, x.get(), y.get(), true), cudaSuccess);
  EXPECT_EQ(cudaStreamSynchronize(a_), cudaErrorLaunchFailure);
  const std::string text = cudaGetErrorString(cudaErrorLaunchFailure);
  EXPECT_THAT(text, HasSubstr("AddOneKernel"));
  EXPECT_EQ(cudaDeviceSynchronize(), cudaErrorLaunchFailure);
  EXPECT_EQ(cudaGetLastError(), cudaErrorLaunchFailure);
  EXPECT_EQ(cudaGetLastError(), cudaErrorLaunchFailure);
  EXPECT_EQ(AddOne(a_, y.get(), y.get(), true), cudaErrorLaunchFailure);
  void* more = nullptr;
  EXPECT_EQ(cudaMalloc(&more, 16), cudaErrorLaunchFailure);
  ASSERT_EQ(cudaSetDevice(1), cudaSuccess);  // another GPU is well
  EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess);
}

TEST_P(Runtime, FreedMemoryAndDoubleFreesAreReported) {
  auto x = std::make_unique<GpuArray<float>>(std::vector<float>(kFloats, 0.0F));
  GpuArray<float> y(kFloats);
  float* freed = x->get();
  x.reset();
  EXPECT_EQ(cudaFree(freed), cudaErrorInvalidValue);
  EXPECT_EQ(cudaFree(y.get() + 64), cudaErrorInvalidValue);
  ASSERT_EQ(AddOne(a_, freed, y.get(), true), cudaSuccess);
  EXPECT_EQ(cudaStreamSynchronize(a_), cudaErrorLaunchFailure);
  EXPECT_THAT(AnyReport(), HasSubstr("outside"));
}

TEST_P(Runtime, CopiesAreCheckedToo) {
  GpuArray<float> x(kFloats), y(std::vector<float>(kFloats, 0.0F));
  cudaMemcpyAsync(host_, x.get(), kBytes, cudaMemcpyDeviceToHost, a_);
  cudaStreamSynchronize(a_);
  EXPECT_THAT(AnyReport(), HasSubstr("nobody has written"));
  simt::fake::Reset();
  cudaMemcpyAsync(y.get() + 1, host_, kBytes, cudaMemcpyHostToDevice, a_);
  cudaStreamSynchronize(a_);
  EXPECT_THAT(AnyReport(), HasSubstr("outside"));
  simt::fake::Reset();
  cudaMemsetAsync(y.get(), 0, kBytes + 4, a_);
  cudaStreamSynchronize(a_);
  EXPECT_THAT(AnyReport(), HasSubstr("outside"));
  EXPECT_EQ(cudaMemcpyAsync(y.get(), host_, 4, cudaMemcpyDeviceToHost, a_), cudaErrorInvalidValue);
}

TEST_P(Runtime, AllocationsHaveAnEnd) {
  emulation::Options options;
  options.memory_bytes = 1 << 20;
  emulation::SetOptions(options);
  void* p = nullptr;
  ASSERT_EQ(cudaMalloc(&p, 700'000), cudaSuccess);
  void* q = nullptr;
  EXPECT_EQ(cudaMalloc(&q, 700'000), cudaErrorMemoryAllocation);
  EXPECT_EQ(cudaGetLastError(), cudaErrorMemoryAllocation);
  EXPECT_EQ(cudaGetLastError(), cudaSuccess);  // not a sticky one
  size_t free = 0, total = 0;
  ASSERT_EQ(cudaMemGetInfo(&free, &total), cudaSuccess);
  EXPECT_EQ(total, size_t{1} << 20);
  EXPECT_LT(free, total - 700'000 + 1);
  ASSERT_EQ(cudaFree(p), cudaSuccess);
  ASSERT_EQ(cudaMalloc(&q, 700'000), cudaSuccess);
  EXPECT_NE(p, q);  // addresses are not used again
  ASSERT_EQ(cudaFree(q), cudaSuccess);
}

TEST_P(Runtime, ImpossibleLaunchesAreRefusedAtOnce) {
  const auto refused = [&](const simt::LaunchShape& shape) {
    return simt::EnqueueKernel(shape, {"Some", nullptr, [](const void*) {}, "", 1});
  };
  const auto reason = [] { return std::string(cudaGetErrorString(cudaErrorInvalidConfiguration)); };
  EXPECT_EQ(refused({.grid = dim3(1), .block = dim3(1025)}), cudaErrorInvalidConfiguration);
  EXPECT_THAT(reason(), HasSubstr("Some: a block of 1025 threads"));
  EXPECT_EQ(refused({.grid = dim3(0), .block = dim3(32)}), cudaErrorInvalidConfiguration);
  EXPECT_EQ(refused({.grid = dim3(1, 65536), .block = dim3(32)}), cudaErrorInvalidConfiguration);
  EXPECT_THAT(reason(), HasSubstr("a grid of 1 x 65536 x 1"));
  EXPECT_EQ(refused({.grid = dim3(1), .block = dim3(32), .shared_bytes = 228 << 10}),
            cudaErrorInvalidConfiguration);
  EXPECT_THAT(reason(), HasSubstr("bytes of shared memory"));
  EXPECT_EQ(refused({.grid = dim3(3), .block = dim3(32), .cluster = dim3(2)}),
            cudaErrorInvalidConfiguration);
  EXPECT_EQ(refused({.grid = dim3(18), .block = dim3(32), .cluster = dim3(9)}),
            cudaErrorInvalidConfiguration);
#ifndef __clang__  // whose kernels do not say it
  const float* none = nullptr;
  EXPECT_EQ(cuda::AddOneByTooLargeBlocks(a_, none, nullptr), cudaErrorInvalidConfiguration);
  EXPECT_THAT(reason(), HasSubstr("a block of 256 threads; the kernel is made for 128"));
#endif
  emulation::Options options;
  options.compute_capability = 80;
  emulation::SetOptions(options);
  EXPECT_EQ(refused({.grid = dim3(2), .block = dim3(32), .cluster = dim3(2)}),
            cudaErrorInvalidConfiguration);
  EXPECT_EQ(refused({.grid = dim3(1), .block = dim3(32), .shared_bytes = 164 << 10}),
            cudaErrorInvalidConfiguration);
}

TEST_P(Runtime, AStreamBelongsToItsGpu) {
  GpuArray<float> x(std::vector<float>(kFloats, 0.0F)), y(kFloats);
  ASSERT_EQ(cudaSetDevice(1), cudaSuccess);
  EXPECT_EQ(AddOne(a_, x.get(), y.get(), true), cudaErrorInvalidResourceHandle);
  EXPECT_THAT(cudaGetErrorString(cudaErrorInvalidResourceHandle), HasSubstr("a stream of GPU 0"));
}

TEST_P(Runtime, EventsTakeTime) {
  cudaEvent_t begin, end;
  ASSERT_EQ(cudaEventCreateWithFlags(&begin, cudaEventDefault), cudaSuccess);
  ASSERT_EQ(cudaEventCreateWithFlags(&end, cudaEventDefault), cudaSuccess);
  float ms = -1;
  EXPECT_EQ(cudaEventElapsedTime(&ms, begin, end), cudaErrorInvalidResourceHandle);
  ASSERT_EQ(cudaEventRecord(begin, a_), cudaSuccess);
  ASSERT_EQ(cudaEventRecord(end, a_), cudaSuccess);
  EXPECT_EQ(cudaEventElapsedTime(&ms, begin, end), cudaErrorNotReady);
  ASSERT_EQ(cudaEventSynchronize(end), cudaSuccess);
  EXPECT_EQ(cudaEventElapsedTime(&ms, begin, end), cudaSuccess);
  EXPECT_GE(ms, 0);
  cudaEventDestroy(begin);
  cudaEventDestroy(end);
}

}  // namespace
}  // namespace tessera
