// Captured graphs, and kernels of several emulated GPUs.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
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
using testing::HasSubstr;
namespace emulation = simt::emulation;

constexpr int kFloats = 256;

class Graphs : public testing::TestWithParam<uint64_t> {
 protected:
  void SetUp() override {
    emulation::Options options;
    options.seed = GetParam();
    options.patience_milliseconds = 200;
    emulation::SetOptions(options);
    cudaSetDevice(0);
    for (cudaStream_t* stream : {&a_, &b_}) cudaStreamCreateWithFlags(stream, 1);
    for (cudaEvent_t* event : {&fork_, &join_}) cudaEventCreateWithFlags(event, 2);
  }
  void TearDown() override {
    simt::fake::Reset();
    cudaSetDevice(0);
    for (cudaStream_t stream : {a_, b_}) cudaStreamDestroy(stream);
    for (cudaEvent_t event : {fork_, join_}) cudaEventDestroy(event);
    emulation::SetOptions(emulation::OptionsFromEnvironment());
  }
  cudaStream_t a_ = nullptr, b_ = nullptr;
  cudaEvent_t fork_ = nullptr, join_ = nullptr;
};
INSTANTIATE_TEST_SUITE_P(Seeds, Graphs, testing::Range<uint64_t>(1, 11));

// A graph of what `enqueue` enqueues; destroyed with the object.
class CapturedGraph {
 public:
  explicit CapturedGraph(cudaStream_t stream) : stream_(stream) {
    EXPECT_EQ(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), cudaSuccess);
  }
  void End() {
    cudaGraph_t graph;
    ASSERT_EQ(cudaStreamEndCapture(stream_, &graph), cudaSuccess);
    ASSERT_EQ(cudaGraphGetNodes(graph, nullptr, &nodes), cudaSuccess);
    ASSERT_EQ(cudaGraphInstantiate(&exec, graph, 0), cudaSuccess);
    ASSERT_EQ(cudaGraphDestroy(graph), cudaSuccess);
  }
  ~CapturedGraph() {
    if (exec != nullptr) cudaGraphExecDestroy(exec);
  }
  cudaGraphExec_t exec = nullptr;
  size_t nodes = 0;

 private:
  cudaStream_t stream_;
};

TEST_P(Graphs, RunWhatWasCaptured) {
  GpuArray<float> x(std::vector<float>(kFloats, 1.0F)), y(kFloats);
  CapturedGraph graph(a_);
  ASSERT_EQ(AddOne(a_, x.get(), y.get(), true), cudaSuccess);
  ASSERT_EQ(AddOne(a_, y.get(), x.get(), true), cudaSuccess);
  EXPECT_EQ(cudaStreamSynchronize(a_), cudaErrorStreamCaptureUnsupported);
  graph.End();
  EXPECT_EQ(graph.nodes, 2U);
  for (int i = 0; i < 3; ++i) ASSERT_EQ(cudaGraphLaunch(graph.exec, a_), cudaSuccess);
  ASSERT_EQ(cudaStreamSynchronize(a_), cudaSuccess) << AnyReport();
  EXPECT_EQ(x.Values()[7], 7);
}

TEST_P(Graphs, ThatHoldFreedMemoryAreReported) {
  GpuArray<float> x(std::vector<float>(kFloats, 1.0F));
  auto y = std::make_unique<GpuArray<float>>(kFloats);
  CapturedGraph graph(a_);
  ASSERT_EQ(AddOne(a_, x.get(), y->get(), true), cudaSuccess);
  graph.End();
  ASSERT_EQ(cudaGraphLaunch(graph.exec, a_), cudaSuccess);
  y.reset();
  EXPECT_EQ(AnyReport(), "");
  ASSERT_EQ(cudaGraphLaunch(graph.exec, a_), cudaSuccess);
  EXPECT_EQ(cudaStreamSynchronize(a_), cudaErrorLaunchFailure);
  EXPECT_THAT(AnyReport(), HasSubstr("outside"));
}

// y = x + 1 in the origin, z = x' + 1 in a branch, then y is read by the branch, or z by the
// origin.
TEST_P(Graphs, BranchesAreOrderedByEventsOnly) {
  for (const bool joined : {true, false}) {
    GpuArray<float> x(std::vector<float>(kFloats, 1.0F)), y(std::vector<float>(kFloats, 0.0F)),
        z(std::vector<float>(kFloats, 0.0F)), out(kFloats);
    CapturedGraph graph(a_);
    ASSERT_EQ(cudaEventRecord(fork_, a_), cudaSuccess);
    ASSERT_EQ(cudaStreamWaitEvent(b_, fork_, 0), cudaSuccess);
    ASSERT_EQ(AddOne(a_, x.get(), y.get(), true), cudaSuccess);
    ASSERT_EQ(AddOne(b_, x.get(), z.get(), true), cudaSuccess);
    ASSERT_EQ(cudaEventRecord(join_, b_), cudaSuccess);
    if (joined) {
      ASSERT_EQ(cudaStreamWaitEvent(a_, join_, 0), cudaSuccess);
    }
    ASSERT_EQ(AddOne(a_, z.get(), out.get(), true), cudaSuccess);
    if (!joined) {
      ASSERT_EQ(cudaStreamWaitEvent(a_, join_, 0), cudaSuccess);
    }
    ASSERT_EQ(AddOne(a_, x.get(), y.get(), true), cudaSuccess);
    graph.End();
    for (int i = 0; i < 2; ++i) ASSERT_EQ(cudaGraphLaunch(graph.exec, a_), cudaSuccess);
    cudaStreamSynchronize(a_);
    if (joined) {
      EXPECT_EQ(AnyReport(), "");
      EXPECT_EQ(out.Values()[9], 3);
    } else {
      EXPECT_THAT(AnyReport(), HasSubstr("not ordered after the"));
    }
    simt::fake::Reset();
  }
}

TEST_P(Graphs, BranchesMustBeJoined) {
  GpuArray<float> x(std::vector<float>(kFloats, 0.0F)), y(kFloats);
  ASSERT_EQ(cudaStreamBeginCapture(a_, cudaStreamCaptureModeThreadLocal), cudaSuccess);
  ASSERT_EQ(cudaEventRecord(fork_, a_), cudaSuccess);
  ASSERT_EQ(cudaStreamWaitEvent(b_, fork_, 0), cudaSuccess);
  ASSERT_EQ(AddOne(b_, x.get(), y.get(), true), cudaSuccess);
  cudaGraph_t graph;
  EXPECT_EQ(cudaStreamEndCapture(b_, &graph), cudaErrorStreamCaptureUnmatched);
  EXPECT_EQ(cudaStreamEndCapture(a_, &graph), cudaErrorStreamCaptureUnjoined);
  EXPECT_EQ(cudaStreamSynchronize(b_), cudaSuccess);  // no longer captured
}

TEST_P(Graphs, PeersNeedPermission) {
  GpuArray<float> x(std::vector<float>(kFloats, 1.0F)), y(kFloats);
  const int peer = 2 + static_cast<int>(GetParam() % 3), allowed = 5;
  cudaStream_t stream;
  ASSERT_EQ(cudaSetDevice(allowed), cudaSuccess);
  const cudaError_t enabled = cudaDeviceEnablePeerAccess(0, 0);
  EXPECT_TRUE(enabled == cudaSuccess || enabled == cudaErrorPeerAccessAlreadyEnabled);
  cudaStreamCreateWithFlags(&stream, 1);
  ASSERT_EQ(AddOne(stream, x.get(), y.get(), true), cudaSuccess);
  EXPECT_EQ(cudaStreamSynchronize(stream), cudaSuccess) << AnyReport();
  cudaStreamDestroy(stream);
  ASSERT_EQ(cudaSetDevice(peer), cudaSuccess);
  cudaStreamCreateWithFlags(&stream, 1);
  ASSERT_EQ(AddOne(stream, x.get(), y.get(), true), cudaSuccess);
  EXPECT_EQ(cudaStreamSynchronize(stream), cudaErrorLaunchFailure);
  EXPECT_THAT(simt::fake::Report(peer), HasSubstr("to which it has no peer access"));
  cudaStreamDestroy(stream);
}

// A kernel of GPU 1 waits for a kernel of GPU 0, which another thread launches later.
TEST_P(Graphs, KernelsOfTwoGpusMeet) {
  for (const bool system : {true, false}) {
    ASSERT_EQ(cudaSetDevice(0), cudaSuccess);
    GpuArray<uint32_t> flag(std::vector<uint32_t>(1));
    GpuArray<float> value(std::vector<float>(1)), out(std::vector<float>(1));
    std::thread other([&] {
      cudaSetDevice(1);
      cudaDeviceEnablePeerAccess(0, 0);
      cudaStream_t stream;
      cudaStreamCreateWithFlags(&stream, 1);
      EXPECT_EQ(cuda::AwaitFlag(stream, flag.get(), value.get(), out.get(), system), cudaSuccess);
      cudaStreamSynchronize(stream);
      cudaStreamDestroy(stream);
    });
    EXPECT_EQ(cuda::SetFlag(a_, flag.get(), value.get(), system), cudaSuccess);
    other.join();
    cudaStreamSynchronize(a_);
    if (system) {
      EXPECT_EQ(AnyReport(), "");
      EXPECT_EQ(out.Values()[0], 7);
    } else {  // what is released for one GPU is not for another
      EXPECT_THAT(AnyReport(), HasSubstr("not ordered after the store by block (0,0,0) thread 0 of "
                                         "'SetFlagKernel'"));
    }
    simt::fake::Reset();
  }
}

TEST_P(Graphs, EightGpusAtOnce) {
  std::vector<std::thread> threads;
  std::vector<std::string> wrong(8);
  for (int device = 0; device < 8; ++device) {
    threads.emplace_back([&wrong, device] {
      cudaSetDevice(device);
      cudaStream_t stream;
      cudaStreamCreateWithFlags(&stream, 1);
      {
        GpuArray<float> x(std::vector<float>(kFloats, static_cast<float>(device))), y(kFloats);
        AddOne(stream, x.get(), y.get(), true);
        AddOne(stream, y.get(), x.get(), true);
        if (cudaStreamSynchronize(stream) != cudaSuccess) wrong[device] = AnyReport();
        if (x.Values()[1] != static_cast<float>(device + 2)) wrong[device] += "wrong value";
      }
      cudaStreamDestroy(stream);
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_THAT(wrong, testing::Each(""));
}

}  // namespace
}  // namespace tessera
