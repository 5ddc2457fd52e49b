#include "parallel/nccl/nccl_communicator.h"

#include "kernels/cuda/emulation/emulator.h"
#include "kernels/cuda/fake/machine_faults.h"
#include "kernels/cuda/step_graph.h"
#include "parallel/nccl/fake/fake_nccl.h"
#include "parallel/nccl/nccl_transport.h"
#include "tests/parallel/communicator_conformance.h"
#include "tests/parallel/nccl/emulated_ranks.h"

namespace tessera {
namespace {

using testing::HasSubstr;

INSTANTIATE_TEST_SUITE_P(Nccl, CommunicatorConformance, testing::Values(EmulatedGpus()),
                         TransportName);
INSTANTIATE_TEST_SUITE_P(Nccl, CommunicatorTimeouts, testing::Values(EmulatedGpus()),
                         TransportName);

void RunRanks(int size, const RankBody& body) { EmulatedGpus().run(size, absl::Seconds(60), body); }

TEST(NcclCommunicatorTest, DifferentOperationsFailOnBothSides) {
  RunRanks(2, [](Communicator& comm, Device& device) {
    TestTensor<float> data(&device, DType::kF32, {8});
    if (comm.rank() == 0) {
      comm.AllReduce(data.view());
    } else {
      comm.Broadcast(data.view(), 0);
    }
    const absl::Status status = device.Synchronize();
    EXPECT_EQ(status.code(), absl::StatusCode::kInternal) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr("rank 0 called AllReduce of 32 bytes"));
    EXPECT_THAT(std::string(status.message()), HasSubstr("rank 1 called Broadcast of 32 bytes"));
  });
}

TEST(NcclCommunicatorTest, TimesGrowWithTheOperations) {
  RunRanks(2, [](Communicator& comm, Device& device) {
    TestTensor<float> data(&device, DType::kF32, {5000});
    for (int i = 0; i < 100; ++i) comm.AllReduce(data.view());  // more than are kept open
    comm.Barrier();
    ASSERT_TRUE(device.Synchronize().ok()) << device.Synchronize();
    const CollectiveTimes times = comm.times();
    EXPECT_GT(times[static_cast<size_t>(CollectiveOp::kAllReduce)], 0);
    EXPECT_GT(times[static_cast<size_t>(CollectiveOp::kBarrier)], 0);
    EXPECT_EQ(times[static_cast<size_t>(CollectiveOp::kBroadcast)], 0);
  });
}

std::unique_ptr<StepGraph> CaptureOn(Device& device, absl::FunctionRef<void()> enqueue) {
  auto graph = cuda::CudaStepGraph::Capture(static_cast<cuda::CudaDevice&>(device), enqueue);
  EXPECT_TRUE(graph.ok()) << graph.status();
  return graph.ok() ? *std::move(graph) : nullptr;
}

// They meet their peers anew in every launch, which is one operation of each communicator.
TEST(NcclCommunicatorTest, OperationsInAGraphRunWithEveryLaunch) {
  RunRanks(3, [](Communicator& comm, Device& device) {
    const auto own = static_cast<float>(comm.rank() + 1);
    TestTensor<float> sum(&device, DType::kF32, {2}, {own, 0});
    TestTensor<float> all(&device, DType::kF32, {6});
    TestTensor<float> turned(&device, DType::kF32, {3, 2});
    TestTensor<float> gathered(&device, DType::kF32, {6});
    const std::unique_ptr<StepGraph> graph = CaptureOn(device, [&] {
      comm.AllReduce(sum.view());
      comm.AllGather(sum.view(), all.view());
      const AllToAllPart parts[] = {
          {TensorView(all.view().data(), DType::kF32, {3, 2}), turned.view()}};
      comm.AllToAll(parts);
      comm.Gather(sum.view(), gathered.view(), 1);
    });
    ASSERT_NE(graph, nullptr);
    EXPECT_EQ(sum.Get(), (std::vector<float>{own, 0})) << "a capture has run something";
    float expected = 2;
    for (int launch = 0; launch < 3; ++launch) {
      graph->Enqueue();
      expected *= 3;
      EXPECT_EQ(sum.Get(), (std::vector<float>{expected, 0}));
      const std::vector<float> three = {expected, 0, expected, 0, expected, 0};
      EXPECT_EQ(all.Get(), three);
      EXPECT_EQ(turned.Get(), three);
      if (comm.rank() == 1) {
        EXPECT_EQ(gathered.Get(), three);
      }
      comm.Barrier();  // one that is enqueued, in between
    }
    ASSERT_TRUE(device.Synchronize().ok()) << device.Synchronize();
    EXPECT_EQ(comm.times()[static_cast<size_t>(CollectiveOp::kAllReduce)], 0);
  });
}

TEST(NcclCommunicatorTest, AGraphIsWatchedLikeAnOperation) {
  RunRanks(2, [](Communicator& comm, Device& device) {
    TestTensor<float> data(&device, DType::kF32, {8});
    const std::unique_ptr<StepGraph> graph =
        CaptureOn(device, [&] { comm.AllReduce(data.view()); });
    ASSERT_NE(graph, nullptr);
    comm.Barrier();
    ASSERT_TRUE(device.Synchronize().ok());
    if (comm.rank() == 1) return;  // leaves
    graph->Enqueue();
    EXPECT_EQ(device.Synchronize().code(), absl::StatusCode::kUnavailable) << device.Synchronize();
  });
}

TEST(NcclCommunicatorTest, AGraphOnOneSideOnlyFailsOnBoth) {
  RunRanks(2, [](Communicator& comm, Device& device) {
    TestTensor<float> data(&device, DType::kF32, {8});
    const std::unique_ptr<StepGraph> graph =
        CaptureOn(device, [&] { comm.AllReduce(data.view()); });
    ASSERT_NE(graph, nullptr);
    if (comm.rank() == 0) {
      graph->Enqueue();
    } else {
      comm.AllReduce(data.view());
    }
    const absl::Status status = device.Synchronize();
    EXPECT_EQ(status.code(), absl::StatusCode::kInternal) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr("a step's graph"));
  });
}

// Kernels behind an operation that was aborted run on what it left, and no memory is freed under
// them.
TEST(NcclCommunicatorTest, BuffersMayBeFreedRightAfterAFailure) {
  for (int round = 0; round < 6; ++round) {
    RunRanks(3, [round](Communicator& comm, Device& device) {
      comm.Barrier();  // a rank that still connects would not get so far
      for (int step = 0; step < 20 && device.Synchronize().ok(); ++step) {
        TestTensor<float> in(&device, DType::kF32, {3, 500});
        TestTensor<float> out(&device, DType::kF32, {3, 500});
        const AllToAllPart parts[] = {{in.view(), out.view()}};
        comm.AllToAll(parts);
        comm.AllReduce(out.view());
        if (comm.rank() == round % 3 && step == round) {
          comm.Abort(absl::UnavailableError("rank 0 is gone"));
        }
      }
      EXPECT_EQ(device.Synchronize().code(), absl::StatusCode::kUnavailable);
    });
  }
}

// Joins as a process of its own would: with a transport that shares only the store.
absl::Status JoinAlone(const cuda::NcclLibrary& library, const GpuGroup& group,
                       const std::function<void(Communicator&, Device&)>& body = nullptr) {
  auto device = cuda::CudaDevice::Create(group.rank);
  if (!device.ok()) return device.status();
  cuda::NcclTransport transport(library, {.scratch_bytes = 4096, .small_bytes = 512});
  auto communicator = transport.Join(group, device->get());
  if (!communicator.ok()) return communicator.status();
  if (body) body(**communicator, **device);
  return (*device)->Synchronize();
}

TEST(NcclCommunicatorTest, ProcessesMeetInAStore) {
  MemoryRendezvousStore store;
  RunRankThreads(3, [&](int rank) {
    const GpuGroup group{.name = "world", .rank = rank, .size = 3, .store = &store};
    const absl::Status status =
        JoinAlone(cuda::FakeNccl(), group, [](Communicator& comm, Device& device) {
          for (int64_t count : {1, 100, 3001}) {
            CheckAllReduce<uint16_t>(comm, device, DType::kBF16, count, 7);
            CheckReduceScatter<float>(comm, device, DType::kF32, count, 7);
          }
          comm.Barrier();
          EXPECT_TRUE(device.Synchronize().ok()) << device.Synchronize();
        });
    EXPECT_TRUE(status.ok()) << status;
  });
}

std::atomic<int> gathers;

// What NCCL gathers of the ranks' all-reduces of `count` floats.
int GathersOfSums(int size, int64_t count) {
  cuda::NcclLibrary library = cuda::FakeNccl();
  library.all_gather = [](const void* in, void* out, size_t elements, ncclDataType_t type,
                          ncclComm_t comm, cudaStream_t stream) {
    ++gathers;
    return cuda::FakeNccl().all_gather(in, out, elements, type, comm, stream);
  };
  gathers = 0;
  cuda::NcclTransport transport(
      library, {.scratch_bytes = 64 << 10, .small_bytes = 4 << 10, .peer_bytes = 1 << 10});
  RunRankThreads(size, [&](int rank) {
    RunEmulatedRank(transport, {.name = "sums", .rank = rank, .size = size},
                    [&](Communicator& comm, Device& device) {
                      CheckAllReduce<float>(comm, device, DType::kF32, count, 7);
                    });
  });
  EXPECT_EQ(simt::fake::AnyReport(), "");
  return gathers;
}

TEST(NcclCommunicatorTest, SmallSumsGoOverPeerMemory) {
  EXPECT_EQ(GathersOfSums(3, 256), 0);
  EXPECT_EQ(GathersOfSums(3, 257), 3);
}

// Whoever is connected may begin at once, while others still clean up.
TEST(NcclCommunicatorTest, GpusThatDoNotReachEachOtherExchangeByNccl) {
  simt::fake::SetFaults({.peer_access = false});
  RunRanks(8, [](Communicator& comm, Device& device) {
    TestTensor<float> data(&device, DType::kF32, {1}, {1});
    comm.AllReduce(data.view());
    EXPECT_EQ(data.Get(), std::vector<float>{8});
    const auto memory = comm.ShareMemory(64);
    ASSERT_TRUE(memory.ok()) << memory.status();
    EXPECT_EQ(*memory, nullptr);
  });
  simt::fake::SetFaults({});
}

TEST(NcclCommunicatorTest, MoreRanksThanPeersSumWithoutThem) {
  simt::emulation::Options options = simt::emulation::OptionsFromEnvironment();
  options.devices = cuda::kMaxPeers + 1;
  simt::emulation::SetOptions(options);
  EXPECT_EQ(GathersOfSums(cuda::kMaxPeers + 1, 16), cuda::kMaxPeers + 1);
  simt::emulation::SetOptions(simt::emulation::OptionsFromEnvironment());
}

// Also to those that it offered no rows that do not fit.
TEST(NcclCommunicatorTest, ImpossibleCountsReachAllPeers) {
  RunRanks(3, [](Communicator& comm, Device& device) {
    Targets targets(comm, device, true);
    TestTensor<float> in(&device, DType::kF32, {3, 4});
    const auto out = targets.Make<float>(DType::kF32, {3, 4}, std::vector<float>(12));
    const auto received = targets.Make<int32_t>(DType::kI32, {3}, std::vector<int32_t>(3));
    TestTensor<int32_t> sent(&device, DType::kI32, {3}, {comm.rank() == 1 ? 2 : 1, 1, 1});
    const AllToAllPart parts[] = {{in.view(), out.view()}};
    comm.AllToAllV(parts, sent.view(), received.view());
    const absl::Status status = device.Synchronize();
    EXPECT_EQ(status.code(), absl::StatusCode::kInternal) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr("rank 1"));
  });
}

// A rank that is gone leaves its window to peers that come late.
TEST(NcclCommunicatorTest, WindowsOutliveTheirRanks) {
  const size_t before = simt::emulation::AllocatedBytes(1);
  for (int round = 0; round < 4; ++round) {
    RunRanks(2, [](Communicator& comm, Device& device) {
      TestTensor<float> data(&device, DType::kF32, {16});
      if (comm.rank() == 1) return;
      for (int i = 0; i < 3; ++i) comm.AllReduce(data.view());
      EXPECT_EQ(device.Synchronize().code(), absl::StatusCode::kUnavailable);
    });
  }
  EXPECT_EQ(simt::emulation::AllocatedBytes(1), before);
}

TEST(NcclCommunicatorTest, RanksWithDifferentVersionsAreRefusedByName) {
  MemoryRendezvousStore store;
  RunRankThreads(3, [&](int rank) {
    cuda::NcclLibrary library = cuda::FakeNccl();
    if (rank == 2) library.version = 22703;
    const absl::Status status =
        JoinAlone(library, {.name = "world", .rank = rank, .size = 3, .store = &store});
    EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr("rank 2 of group world has NCCL 2.27.3"));
    EXPECT_THAT(std::string(status.message()), HasSubstr("rank 0 has NCCL 2.28.9"));
  });
}

TEST(NcclCommunicatorTest, RankThatNeverComesIsNamed) {
  MemoryRendezvousStore store;
  const absl::Status status =
      JoinAlone(cuda::FakeNccl(), {.name = "pair",
                                   .rank = 0,
                                   .size = 2,
                                   .connect_timeout = absl::Milliseconds(100),
                                   .store = &store});
  EXPECT_EQ(status.code(), absl::StatusCode::kDeadlineExceeded) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("pair/nccl/rank 1"));
}

// A peer that has met the others but does not get into NCCL's own connecting.
TEST(NcclCommunicatorTest, ConnectingHasADeadline) {
  MemoryRendezvousStore store;
  cuda::NcclLibrary stuck = cuda::FakeNccl();
  stuck.comm_get_async_error = [](ncclComm_t, ncclResult_t* error) {
    *error = ncclInProgress;
    return ncclSuccess;
  };
  const absl::Status status = JoinAlone(
      stuck, {.name = "stuck", .connect_timeout = absl::Milliseconds(100), .store = &store});
  EXPECT_EQ(status.code(), absl::StatusCode::kDeadlineExceeded) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("did not connect the 1 ranks"));
}

// What NCCL finds out by itself while the host waits.
TEST(NcclCommunicatorTest, ErrorsOfNcclSurfaceInWaits) {
  MemoryRendezvousStore store;
  static std::atomic<bool> broken;
  broken = false;
  RunRankThreads(2, [&](int rank) {
    cuda::NcclLibrary library = cuda::FakeNccl();
    if (rank == 0) {
      library.comm_get_async_error = [](ncclComm_t comm, ncclResult_t* error) {
        const ncclResult_t result = cuda::FakeNccl().comm_get_async_error(comm, error);
        if (broken) *error = ncclRemoteError;
        return result;
      };
    }
    const absl::Status status =
        JoinAlone(library, {.name = "broken", .rank = rank, .size = 2, .store = &store},
                  [&](Communicator& comm, Device& device) {
                    TestTensor<float> data(&device, DType::kF32, {8});
                    comm.AllReduce(data.view());
                    EXPECT_TRUE(device.Synchronize().ok()) << device.Synchronize();
                    if (rank == 1) absl::SleepFor(absl::Milliseconds(300));
                    if (rank == 1) return;
                    comm.AllReduce(data.view());
                    broken = true;
                    const absl::Status failed = device.Synchronize();
                    EXPECT_EQ(failed.code(), absl::StatusCode::kUnavailable) << failed;
                    EXPECT_THAT(std::string(failed.message()), HasSubstr("NCCL failed on rank 0"));
                  });
    EXPECT_FALSE(rank == 0 && status.ok());
  });
}

}  // namespace
}  // namespace tessera
