#include "parallel/inproc/inproc_communicator.h"

#include <atomic>
#include <ctime>
#include <functional>
#include <memory>
#include <thread>
#include <vector>

#include "tests/parallel/communicator_conformance.h"
#include "tests/parallel/rank_threads.h"
#include "tests/parallel/transport.h"

namespace tessera {
namespace {

std::vector<Transport> RankThreads() {
  return {InprocTransport("Spinning", 64, TestDevice::Queue::kImmediate),
          InprocTransport("Sleeping", 1, TestDevice::Queue::kImmediate),
          InprocTransport("Queued", 0, TestDevice::Queue::kThread)};
}

INSTANTIATE_TEST_SUITE_P(Threads, CommunicatorConformance, testing::ValuesIn(RankThreads()),
                         TransportName);
INSTANTIATE_TEST_SUITE_P(Threads, CommunicatorTimeouts, testing::ValuesIn(RankThreads()),
                         TransportName);
INSTANTIATE_TEST_SUITE_P(Carriers, CommunicatorConformance,
                         testing::Values(CarriedTransport("OnOneThread", 1),
                                         CarriedTransport("OnTwoThreads", 2)),
                         TransportName);

// Two ranks on one thread; the second one never comes, without blocking the thread.
void AwaitAbsentRank(absl::Duration timeout, const std::function<void(Communicator&)>& meanwhile,
                     absl::StatusCode expected) {
  const auto bell = std::make_shared<Bell>();
  const auto group = CreateInprocGroup(2, {.timeout = timeout, .bell = bell});
  std::atomic<bool> seen{false};
  Carrier carrier(2, bell);
  for (int rank = 0; rank < 2; ++rank) {
    Seat* const seat = &carrier.seat(rank);
    seat->Post([&, seat, rank] {
      TestDevice device;
      const auto communicator = JoinInprocGroup(group, rank, &device, seat);
      if (rank == 1) {
        EXPECT_TRUE(seat->Wait([&] { return seen.load(); }, absl::Now() + absl::Seconds(30)));
        return;
      }
      meanwhile(*communicator);
      TestTensor<float> data(&device, DType::kF32, {16});
      const absl::Time start = absl::Now();
      communicator->AllReduce(data.view());
      EXPECT_EQ(device.Synchronize().code(), expected) << device.Synchronize();
      EXPECT_LE(absl::Now() - start, absl::Seconds(10));
      seen = true;
    });
  }
}

TEST(CarriedRanksTest, MissingRankIsNoticedAfterTheTimeout) {
  AwaitAbsentRank(
      absl::Milliseconds(200), [](Communicator&) {}, absl::StatusCode::kDeadlineExceeded);
}

TEST(CarriedRanksTest, AbortFromAnotherThreadWakesAWaitingRank) {
  std::thread watchdog;
  AwaitAbsentRank(
      absl::Seconds(60),
      [&](Communicator& communicator) {
        watchdog = std::thread([&communicator] {
          absl::SleepFor(absl::Milliseconds(100));
          communicator.Abort(absl::UnavailableError("rank 1 missed its heartbeat"));
        });
      },
      absl::StatusCode::kUnavailable);
  watchdog.join();
}

TEST(InprocCommunicatorTest, DifferentOperationsFailOnBothSides) {
  RunInproc(2, {.timeout = absl::Seconds(60)}, TestDevice::Queue::kImmediate,
            [](Communicator& comm, Device& device) {
              TestTensor<float> data(&device, DType::kF32, {8 + comm.rank()});
              comm.AllReduce(data.view());
              EXPECT_EQ(device.Synchronize().code(), absl::StatusCode::kInternal)
                  << device.Synchronize();
            });
}

// With more ranks than cores a waiting rank must leave the core to the others.
TEST(InprocCommunicatorTest, WaitingRanksUseNoProcessorTimeWhenCoresAreShort) {
  std::atomic<int64_t> busy_ns{0};
  RunInproc(4, {.timeout = absl::Seconds(60), .cores = 1}, TestDevice::Queue::kImmediate,
            [&busy_ns](Communicator& comm, Device& device) {
              TestTensor<float> data(&device, DType::kF32, {64});
              if (comm.rank() == 0) absl::SleepFor(absl::Milliseconds(300));
              comm.AllReduce(data.view());
              timespec used{};
              clock_gettime(CLOCK_THREAD_CPUTIME_ID, &used);
              busy_ns += used.tv_nsec + used.tv_sec * 1'000'000'000;
            });
  EXPECT_LT(busy_ns.load(), 60'000'000);  // four ranks together, 300 ms of waiting each
}

// A failure must not let a rank free memory that a peer still reads (shows under ASan and TSan).
TEST(InprocCommunicatorTest, BuffersMayBeFreedRightAfterAFailure) {
  for (int round = 0; round < 30; ++round) {
    auto group = CreateInprocGroup(3, {.timeout = absl::Seconds(60)});
    RunRankThreads(3, [&](int rank) {
      TestDevice device;
      auto communicator = JoinInprocGroup(group, rank, &device);
      for (int step = 0; step < 20 && device.Synchronize().ok(); ++step) {
        TestTensor<float> in(&device, DType::kF32, {3, 20000});
        TestTensor<float> out(&device, DType::kF32, {3, 20000});
        const AllToAllPart parts[] = {{in.view(), out.view()}};
        communicator->AllToAll(parts);
        if (rank == round % 3 && step == round % 7) {
          communicator->Abort(absl::UnavailableError("rank 0 is gone"));
        }
      }
      EXPECT_FALSE(device.Synchronize().ok());
    });
  }
}

}  // namespace
}  // namespace tessera
