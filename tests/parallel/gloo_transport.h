// Groups of ranks over Gloo on the loopback device: threads of this process, or one forked process
// per rank.
#ifndef TESSERA_TESTS_PARALLEL_GLOO_TRANSPORT_H_
#define TESSERA_TESTS_PARALLEL_GLOO_TRANSPORT_H_

#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "parallel/gloo/gloo_communicator.h"
#include "parallel/rendezvous_store.h"
#include "tests/parallel/transport.h"

namespace tessera {

inline std::shared_ptr<GlooEndpoint> LoopbackEndpoint() {
  auto endpoint = CreateGlooEndpoint({.interface = "lo"});
  EXPECT_TRUE(endpoint.ok()) << endpoint.status();
  return endpoint.ok() ? *endpoint : nullptr;
}

inline void RunGlooRank(std::shared_ptr<GlooEndpoint> endpoint, RendezvousStore& store,
                        const GlooGroup& group, const RankBody& body) {
  TestDevice device;
  auto communicator = JoinGlooGroup(std::move(endpoint), &store, group, &device);
  ASSERT_TRUE(communicator.ok()) << communicator.status();
  body(**communicator, device);
  device.Synchronize().IgnoreError();
}

inline Transport GlooThreads() {
  return {.name = "GlooThreads",
          .sizes = {1, 2, 4},
          .run = [](int size, absl::Duration timeout, const RankBody& body) {
            MemoryRendezvousStore store;
            const auto endpoint = LoopbackEndpoint();
            RunRankThreads(size, [&](int rank) {
              RunGlooRank(endpoint, store,
                          {.name = "test", .rank = rank, .size = size, .timeout = timeout}, body);
            });
          }};
}

// A folder that exists as long as this object.
class TemporaryFolder {
 public:
  TemporaryFolder() {
    std::string pattern = testing::TempDir() + "tessera-XXXXXX";
    EXPECT_NE(mkdtemp(pattern.data()), nullptr);
    path_ = pattern;
  }
  ~TemporaryFolder() { std::filesystem::remove_all(path_); }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

// The parent only waits; failed expectations of a child become its exit status.
inline Transport GlooProcesses() {
  return {.name = "GlooProcesses",
          .sizes = {2, 3},
          .run = [](int size, absl::Duration timeout, const RankBody& body) {
            const TemporaryFolder folder;
            std::fflush(nullptr);
            std::vector<pid_t> children;
            for (int rank = 0; rank < size; ++rank) {
              const pid_t child = fork();
              ASSERT_GE(child, 0);
              if (child == 0) {
                FileRendezvousStore store(folder.path());
                RunGlooRank(LoopbackEndpoint(), store,
                            {.name = "test", .rank = rank, .size = size, .timeout = timeout}, body);
                std::fflush(nullptr);
                _exit(testing::Test::HasFailure() ? 1 : 0);
              }
              children.push_back(child);
            }
            for (int rank = 0; rank < size; ++rank) {
              int status = 0;
              ASSERT_EQ(waitpid(children[rank], &status, 0), children[rank]);
              EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0)
                  << "rank " << rank << " failed with status " << status;
            }
          }};
}

}  // namespace tessera

#endif  // TESSERA_TESTS_PARALLEL_GLOO_TRANSPORT_H_
