#include "parallel/gloo/gloo_communicator.h"

#include <csignal>

#include "tests/parallel/communicator_conformance.h"
#include "tests/parallel/gloo_transport.h"

namespace tessera {
namespace {

INSTANTIATE_TEST_SUITE_P(Gloo, CommunicatorConformance,
                         testing::Values(GlooThreads(), GlooProcesses()), TransportName);
INSTANTIATE_TEST_SUITE_P(Gloo, CommunicatorTimeouts,
                         testing::Values(GlooThreads(), GlooProcesses()), TransportName);

TEST(GlooEndpointTest, NamesWhatIsMissing) {
  EXPECT_EQ(CreateGlooEndpoint({}).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(CreateGlooEndpoint({.interface = "lo", .address = "127.0.0.1"}).status().code(),
            absl::StatusCode::kInvalidArgument);
  const absl::Status status = CreateGlooEndpoint({.interface = "nosuchif0"}).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(status.message()), testing::HasSubstr("nosuchif0"));
  EXPECT_THAT(std::string(status.message()), testing::HasSubstr("it has lo"));
  EXPECT_TRUE(CreateGlooEndpoint({.address = "127.0.0.1"}).ok());
}

// Writing to a dead peer must be an error, not the end of this process.
TEST(GlooEndpointTest, BrokenPipesDoNotKill) {
  const auto before = std::signal(SIGPIPE, SIG_DFL);
  EXPECT_NE(LoopbackEndpoint(), nullptr);
  EXPECT_EQ(std::signal(SIGPIPE, before), SIG_IGN);
}

TEST(GlooGroupTest, RankThatNeverComesIsNamed) {
  MemoryRendezvousStore store;
  TestDevice device;
  const absl::Time start = absl::Now();
  const auto group = JoinGlooGroup(
      LoopbackEndpoint(), &store,
      {.name = "pair", .rank = 0, .size = 2, .connect_timeout = absl::Milliseconds(200)}, &device);
  EXPECT_EQ(group.status().code(), absl::StatusCode::kDeadlineExceeded) << group.status();
  EXPECT_THAT(std::string(group.status().message()), testing::HasSubstr("pair/rank 1"));
  EXPECT_LE(absl::Now() - start, absl::Seconds(20));
  EXPECT_FALSE(JoinGlooGroup(LoopbackEndpoint(), &store, {.rank = 2, .size = 2}, &device).ok());
}

// A killed process is noticed by its peers while they wait for it.
TEST(GlooGroupTest, KilledProcessIsNoticed) {
  GlooProcesses().run(3, absl::Seconds(60), [](Communicator& comm, Device& device) {
    TestTensor<float> data(&device, DType::kF32, {1000});
    comm.AllReduce(data.view());
    EXPECT_TRUE(device.Synchronize().ok()) << device.Synchronize();
    if (comm.rank() == 1) {
      // Ends without any clean-up, as a killed process; the status tells the parent all is well.
      absl::SleepFor(absl::Milliseconds(100));
      _exit(0);
    }
    const absl::Time start = absl::Now();
    comm.AllReduce(data.view());
    const absl::Status status = device.Synchronize();
    EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable) << status;
    EXPECT_THAT(std::string(status.message()), testing::HasSubstr("rank"));
    EXPECT_LE(absl::Now() - start, absl::Seconds(2));
  });
}

TEST(RendezvousStoreTest, WaitsForAKey) {
  const TemporaryFolder folder;
  MemoryRendezvousStore memory;
  FileRendezvousStore file(folder.path());
  for (RendezvousStore* store : std::initializer_list<RendezvousStore*>{&memory, &file}) {
    EXPECT_EQ(store->Get("a/b", absl::Milliseconds(20)).status().code(),
              absl::StatusCode::kDeadlineExceeded);
    std::thread setter([store] {
      absl::SleepFor(absl::Milliseconds(30));
      EXPECT_TRUE(store->Set("a/b", std::string("\0x\n", 3)).ok());
    });
    const auto value = store->Get("a/b", absl::Seconds(20));
    setter.join();
    ASSERT_TRUE(value.ok()) << value.status();
    EXPECT_EQ(*value, std::string("\0x\n", 3));
  }
  EXPECT_FALSE(FileRendezvousStore("/nonexistent").Set("a", "b").ok());
}

}  // namespace
}  // namespace tessera
