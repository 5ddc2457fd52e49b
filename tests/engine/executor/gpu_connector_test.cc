// How ranks on emulated GPUs connect: directly inside a node, through the group's store beyond.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/time/clock.h"
#include "engine/executor/network_connector.h"
#include "engine/executor/rank_connector.h"
#include "kernels/cuda/cuda_device.h"
#include "kernels/cuda/fake/emulated_gpus.h"
#include "parallel/rendezvous_store.h"
#include "tests/parallel/rank_threads.h"
#include "tests/parallel/test_device.h"

namespace tessera {
namespace {

constexpr char kBackend[] = "cuda-emulated";

std::unique_ptr<cuda::CudaDevice> Gpu(int index) {
  auto device = cuda::CudaDevice::Create(index);
  TESSERA_CHECK(device.ok());
  return *std::move(device);
}

// The sum over ranks of a number, from every rank of the group.
void ExpectSum(Communicator* communicator, Device* device, float own, float expected) {
  ASSERT_NE(communicator, nullptr);
  TestTensor<float> data(device, DType::kF32, {5}, std::vector<float>(5, own));
  communicator->AllReduce(data.view());
  EXPECT_EQ(data.Get(), std::vector<float>(5, expected));
}

// Two tensor-parallel groups of two ranks; no device of them is within the host's reach.
void RunWorld(RankConnector& connector, const LayoutRequest& layout, int first, int ranks) {
  RunRankThreads(ranks, [&](int local) {
    const int rank = first + local;
    const auto topology = Topology::Create(layout, rank);
    ASSERT_TRUE(topology.ok());
    const auto device = Gpu(rank);
    const auto links =
        connector.Connect({.topology = *topology, .device = device.get(), .shared_seat = nullptr});
    ASSERT_TRUE(links.ok()) << links.status();
    const auto own = static_cast<float>(1 << rank);
    ExpectSum(links->tp.get(), device.get(), own, rank < 2 ? 3 : 12);
    ExpectSum(links->world.get(), device.get(), own, 15);
    EXPECT_TRUE(device->Synchronize().ok()) << device->Synchronize();
  });
}

TEST(GpuConnectorTest, RanksOfANodeExchangeDirectly) {
  RankConnector connector({.backend = kBackend});
  RunWorld(connector, {.tensor_parallel = 2, .data_parallel = 2}, 0, 4);
  EXPECT_EQ(simt::fake::AnyReport(), "");
}

// Nodes as two connectors that share a store only.
TEST(GpuConnectorTest, RanksOfTwoNodesMeetInTheStore) {
  MemoryRendezvousStore store;
  RunRankThreads(2, [&](int node) {
    RankConnector connector({.remote = ConnectOverNetwork({.store = &store, .backend = kBackend}),
                             .backend = kBackend});
    RunWorld(connector, {.tensor_parallel = 2, .data_parallel = 2, .nodes = 2}, 2 * node, 2);
  });
  EXPECT_EQ(simt::fake::AnyReport(), "");
}

// A rank of two has failed before it joined: the other one need not wait for it, wherever it waits.
TEST(GpuConnectorTest, WhoWaitsForARankThatFailedIsTold) {
  for (const int nodes : {1, 2}) {
    for (const int waiting : {0, 1}) {
      MemoryRendezvousStore store;
      RankConnector connector({.remote = ConnectOverNetwork({.store = &store, .backend = kBackend}),
                               .backend = kBackend});
      std::thread failing([&] {
        absl::SleepFor(absl::Milliseconds(50));
        connector.Abort(absl::UnavailableError("rank x is out of memory"));
      });
      const auto topology = Topology::Create({.tensor_parallel = 2, .nodes = nodes}, waiting);
      ASSERT_TRUE(topology.ok()) << topology.status();
      const auto device = Gpu(waiting);
      const absl::Time begin = absl::Now();
      const absl::Status status =
          connector.Connect({.topology = *topology, .device = device.get(), .shared_seat = nullptr})
              .status();
      failing.join();
      EXPECT_EQ(status, absl::UnavailableError("rank x is out of memory"));
      EXPECT_LT(absl::Now() - begin, absl::Seconds(30));
    }
  }
}

TEST(GpuConnectorTest, DevicesWithoutATransportAreRefused) {
  MemoryRendezvousStore store;
  const RemoteRanks remote = ConnectOverNetwork({.store = &store, .backend = "abacus"});
  const auto device = Gpu(0);
  const absl::Status status =
      remote.connect({.name = "world", .rank = 0, .size = 2}, device.get()).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
  EXPECT_THAT(std::string(status.message()), testing::HasSubstr("has no transport between ranks"));
}

}  // namespace
}  // namespace tessera
