// The stand-in for NCCL by itself: misuse that it must report, and what its sums round like.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nccl.h>

#include <cstdint>
#include <string>
#include <vector>

#include "kernels/core/dtype.h"
#include "kernels/cuda/emulation/emulator.h"
#include "kernels/cuda/fake/emulated_gpus.h"
#include "tests/kernels/cuda/gpu_array.h"

namespace tessera {
namespace {

namespace emulation = simt::emulation;
using simt::fake::AnyReport;
using simt::fake::Report;
using testing::HasSubstr;

// Two ranks on one thread: calls that do not block need no second one.
class FakeNccl : public testing::Test {
 protected:
  void SetUp() override {
    emulation::Options options;
    options.patience_milliseconds = 50;
    emulation::SetOptions(options);
    ncclUniqueId id;
    ASSERT_EQ(ncclGetUniqueId(&id), ncclSuccess);
    for (int rank = 0; rank < 2; ++rank) {
      ASSERT_EQ(cudaSetDevice(rank), cudaSuccess);
      ASSERT_EQ(cudaStreamCreateWithFlags(&stream_[rank], cudaStreamNonBlocking), cudaSuccess);
      ncclConfig_t config;
      config.blocking = 0;
      EXPECT_EQ(ncclCommInitRankConfig(&comm_[rank], 2, id, rank, &config), ncclInProgress);
    }
    for (int rank = 0; rank < 2; ++rank) Poll(rank);
  }
  void TearDown() override {
    for (int rank = 0; rank < 2; ++rank) ncclCommAbort(comm_[rank]);
    simt::fake::Reset();
    for (int rank = 0; rank < 2; ++rank) {
      cudaSetDevice(rank);
      cudaStreamDestroy(stream_[rank]);
    }
    cudaSetDevice(0);
    emulation::SetOptions(emulation::OptionsFromEnvironment());
  }

  void Poll(int rank) {
    ncclResult_t state = ncclInProgress;
    for (int i = 0; i < 10 && state == ncclInProgress; ++i) {
      ASSERT_EQ(ncclCommGetAsyncError(comm_[rank], &state), ncclSuccess);
    }
    ASSERT_EQ(state, ncclSuccess);
  }
  // Waits on rank 0.
  cudaError_t Wait() {
    cudaSetDevice(0);
    return cudaStreamSynchronize(stream_[0]);
  }
  std::unique_ptr<GpuArray<float>> Array(int rank, const std::vector<float>& values) {
    cudaSetDevice(rank);
    return std::make_unique<GpuArray<float>>(values);
  }

  cudaStream_t stream_[2] = {};
  ncclComm_t comm_[2] = {};
};

TEST_F(FakeNccl, RanksThatCallDifferentCollectivesAreNamed) {
  const auto a = Array(0, std::vector<float>(8, 1)), b = Array(1, std::vector<float>(8, 2));
  ncclAllGather(a->get(), a->get(), 4, ncclFloat32, comm_[0], stream_[0]);
  ncclBroadcast(b->get(), b->get(), 2, ncclFloat32, 0, comm_[1], stream_[1]);
  for (int rank = 0; rank < 2; ++rank) Poll(rank);
  EXPECT_NE(Wait(), cudaSuccess);
  EXPECT_THAT(Report(0), HasSubstr("ranks call different collectives: rank 0 ncclAllGather of 16 "
                                   "bytes, rank 1 ncclBroadcast of 8 bytes"));
}

TEST_F(FakeNccl, SendsAndReceivesMustAgree) {
  const auto a = Array(0, std::vector<float>(8, 1)), b = Array(1, std::vector<float>(8, 2));
  ncclSend(a->get(), 4, ncclFloat32, 1, comm_[0], stream_[0]);
  ncclRecv(b->get(), 3, ncclFloat32, 0, comm_[1], stream_[1]);
  for (int rank = 0; rank < 2; ++rank) Poll(rank);
  EXPECT_NE(Wait(), cudaSuccess);
  EXPECT_THAT(Report(0), HasSubstr("rank 0 ncclSend of 16 bytes, rank 1 ncclRecv of 12 bytes"));
}

// Both send first, outside of a group: no GPU would get on.
TEST_F(FakeNccl, NothingIsBuffered) {
  const auto a = Array(0, std::vector<float>(8, 1)), b = Array(1, std::vector<float>(8, 2));
  const GpuArray<float>* arrays[] = {a.get(), b.get()};
  for (int rank = 0; rank < 2; ++rank) {
    ncclSend(arrays[rank]->get(), 4, ncclFloat32, 1 - rank, comm_[rank], stream_[rank]);
    Poll(rank);
    ncclRecv(arrays[rank]->get() + 4, 4, ncclFloat32, 1 - rank, comm_[rank], stream_[rank]);
    Poll(rank);
  }
  EXPECT_NE(Wait(), cudaSuccess);
  EXPECT_THAT(Report(0), HasSubstr("streams wait for each other"));
}

TEST_F(FakeNccl, AGroupOfSendsAndReceivesIsOneOperation) {
  const auto a = Array(0, std::vector<float>(8, 1)), b = Array(1, std::vector<float>(8, 2));
  const GpuArray<float>* arrays[] = {a.get(), b.get()};
  for (int rank = 0; rank < 2; ++rank) {
    ncclGroupStart();
    ncclSend(arrays[rank]->get(), 4, ncclFloat32, 1 - rank, comm_[rank], stream_[rank]);
    ncclRecv(arrays[rank]->get() + 4, 4, ncclFloat32, 1 - rank, comm_[rank], stream_[rank]);
    EXPECT_EQ(ncclGroupEnd(), ncclInProgress);
    Poll(rank);
  }
  EXPECT_EQ(Wait(), cudaSuccess) << AnyReport();
  EXPECT_EQ(a->Values()[4], 2);
  cudaSetDevice(1);
  EXPECT_EQ(cudaStreamSynchronize(stream_[1]), cudaSuccess) << AnyReport();
  EXPECT_EQ(b->Values()[4], 1);
}

// A receive into what the same group still sends.
TEST_F(FakeNccl, ReceivingOverWhatIsSentIsARace) {
  const auto a = Array(0, std::vector<float>(8, 1)), b = Array(1, std::vector<float>(8, 2));
  const GpuArray<float>* arrays[] = {a.get(), b.get()};
  for (int rank = 0; rank < 2; ++rank) {
    ncclGroupStart();
    ncclSend(arrays[rank]->get(), 4, ncclFloat32, 1 - rank, comm_[rank], stream_[rank]);
    ncclRecv(arrays[rank]->get(), 4, ncclFloat32, 1 - rank, comm_[rank], stream_[rank]);
    ncclGroupEnd();
    Poll(rank);
  }
  EXPECT_NE(Wait(), cudaSuccess);
  EXPECT_THAT(AnyReport(), HasSubstr("not ordered after an access"));
}

TEST_F(FakeNccl, ACallWhileAnotherOneIsInProgressIsRefused) {
  const auto a = Array(0, std::vector<float>(8, 1));
  EXPECT_EQ(ncclBroadcast(a->get(), a->get(), 8, ncclFloat32, 0, comm_[0], stream_[0]),
            ncclInProgress);
  EXPECT_EQ(ncclBroadcast(a->get(), a->get(), 8, ncclFloat32, 0, comm_[0], stream_[0]),
            ncclInvalidUsage);
  EXPECT_THAT(ncclGetLastError(comm_[0]), HasSubstr("still in progress"));
}

// Work that follows a call which nobody polled for is not behind it.
TEST_F(FakeNccl, UnpolledCallsAreNotInTheStream) {
  const auto a = Array(0, std::vector<float>(8, 1));
  EXPECT_EQ(ncclBroadcast(a->get(), a->get(), 8, ncclFloat32, 0, comm_[0], stream_[0]),
            ncclInProgress);
  EXPECT_EQ(Wait(), cudaSuccess) << AnyReport();  // nothing to wait for
}

TEST_F(FakeNccl, MemoryIsChecked) {
  cudaSetDevice(0);
  const GpuArray<float> unwritten(8);
  const auto b = Array(1, std::vector<float>(8, 2));
  ncclBroadcast(unwritten.get(), unwritten.get(), 8, ncclFloat32, 0, comm_[0], stream_[0]);
  ncclBroadcast(b->get(), b->get(), 8, ncclFloat32, 0, comm_[1], stream_[1]);
  for (int rank = 0; rank < 2; ++rank) Poll(rank);
  EXPECT_NE(Wait(), cudaSuccess);
  EXPECT_THAT(AnyReport(), HasSubstr("nobody has written"));
}

TEST_F(FakeNccl, OutputsLieApartOrExactlyInPlace) {
  const auto a = Array(0, std::vector<float>(12, 1)), b = Array(1, std::vector<float>(12, 2));
  ncclAllGather(a->get() + 1, a->get(), 4, ncclFloat32, comm_[0], stream_[0]);
  ncclAllGather(b->get() + 4, b->get(), 4, ncclFloat32, comm_[1], stream_[1]);
  for (int rank = 0; rank < 2; ++rank) Poll(rank);
  EXPECT_NE(Wait(), cudaSuccess);
  EXPECT_THAT(Report(0), HasSubstr("input and output overlap: rank 0"));
}

TEST_F(FakeNccl, AnAbortedCommunicatorIsGoneAndItsStreamRuns) {
  const auto a = Array(0, std::vector<float>(8, 1));
  ncclBroadcast(a->get(), a->get(), 8, ncclFloat32, 0, comm_[0], stream_[0]);
  Poll(0);
  EXPECT_EQ(cudaStreamQuery(stream_[0]), cudaErrorNotReady);
  EXPECT_EQ(ncclCommAbort(comm_[0]), ncclSuccess);
  EXPECT_EQ(Wait(), cudaSuccess) << AnyReport();
  EXPECT_NE(a->Values()[0], 1);  // anything
  EXPECT_EQ(ncclBroadcast(a->get(), a->get(), 8, ncclFloat32, 0, comm_[0], stream_[0]),
            ncclInvalidArgument);
  EXPECT_EQ(ncclCommDestroy(comm_[0]), ncclInvalidArgument);
}

TEST_F(FakeNccl, TwoRanksOnOneGpuAreRefused) {
  ncclUniqueId id;
  ncclGetUniqueId(&id);
  ncclConfig_t config;
  config.blocking = 0;
  ncclComm_t comm = nullptr;
  ncclComm_t second = nullptr;
  EXPECT_EQ(ncclCommInitRankConfig(&comm, 2, id, 0, &config), ncclInProgress);
  EXPECT_EQ(ncclCommInitRankConfig(&second, 2, id, 1, &config), ncclInvalidUsage);
  EXPECT_EQ(second, nullptr);
  EXPECT_EQ(ncclCommAbort(comm), ncclSuccess);
}

}  // namespace

// Three bf16 summands that rank order and the ring add up differently.
TEST(FakeNcclSums, TheRingRoundsAtEveryHop) {
  constexpr int kRanks = 3;
  constexpr int kCount = 3;
  const float values[kRanks] = {256.0F, 1.0F, 1.0F};
  ncclUniqueId id;
  ncclGetUniqueId(&id);
  ncclComm_t comms[kRanks];
  cudaStream_t streams[kRanks];
  std::vector<std::unique_ptr<GpuArray<uint16_t>>> arrays;
  for (int rank = 0; rank < kRanks; ++rank) {
    cudaSetDevice(rank);
    cudaStreamCreateWithFlags(&streams[rank], cudaStreamNonBlocking);
    ncclConfig_t config;
    config.blocking = 0;
    ncclCommInitRankConfig(&comms[rank], kRanks, id, rank, &config);
    arrays.push_back(std::make_unique<GpuArray<uint16_t>>(
        std::vector<uint16_t>(kCount, FloatToBF16(values[rank]))));
  }
  for (int rank = 0; rank < kRanks; ++rank) {
    ncclResult_t state = ncclInProgress;
    while (state == ncclInProgress) ncclCommGetAsyncError(comms[rank], &state);
    ncclAllReduce(arrays[rank]->get(), arrays[rank]->get(), kCount, ncclBfloat16, ncclSum,
                  comms[rank], streams[rank]);
    state = ncclInProgress;
    while (state == ncclInProgress) ncclCommGetAsyncError(comms[rank], &state);
  }
  for (int rank = 0; rank < kRanks; ++rank) {
    cudaSetDevice(rank);
    ASSERT_EQ(cudaStreamSynchronize(streams[rank]), cudaSuccess) << AnyReport();
    std::vector<float> sums;
    for (uint16_t sum : arrays[rank]->Values()) sums.push_back(BF16ToFloat(sum));
    // 256 + 1 + 1 rounds to 256 twice, 1 + 1 + 256 is exact; in fp32 all would be 258.
    EXPECT_EQ(sums, (std::vector<float>{256, 258, 256}));
    ncclCommDestroy(comms[rank]);
    cudaStreamDestroy(streams[rank]);
  }
  cudaSetDevice(0);
}

}  // namespace tessera
