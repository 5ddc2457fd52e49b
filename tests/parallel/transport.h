// How test suites get a group of ranks on any transport.
#ifndef TESSERA_TESTS_PARALLEL_TRANSPORT_H_
#define TESSERA_TESTS_PARALLEL_TRANSPORT_H_

#include <algorithm>
#include <functional>
#include <memory>
#include <ostream>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "gtest/gtest.h"
#include "parallel/carrier/carrier.h"
#include "parallel/communicator.h"
#include "parallel/inproc/inproc_communicator.h"
#include "tests/parallel/rank_threads.h"
#include "tests/parallel/test_device.h"

namespace tessera {

// One rank's part of a test; runs on a thread or in a process of its own.
using RankBody = std::function<void(Communicator&, Device&)>;

struct Transport {
  std::string name;
  std::vector<int> sizes;  // worlds to test
  // Runs `body` on every rank of a fresh group and returns when all are done.
  std::function<void(int size, absl::Duration timeout, const RankBody& body)> run;
};

inline std::ostream& operator<<(std::ostream& out, const Transport& transport) {
  return out << transport.name;
}

inline std::string TransportName(const testing::TestParamInfo<Transport>& tested) {
  return tested.param.name;
}

// Rank threads of this process. `cores` as in InprocOptions.
inline void RunInproc(int size, const InprocOptions& options, TestDevice::Queue queue,
                      const RankBody& body) {
  auto group = CreateInprocGroup(size, options);
  RunRankThreads(size, [&](int rank) {
    TestDevice device(queue);
    auto communicator = JoinInprocGroup(group, rank, &device);
    body(*communicator, device);
    device.Synchronize().IgnoreError();
  });
}

// The same with ranks that share `carriers` threads.
inline void RunCarried(int size, int carriers, absl::Duration timeout, const RankBody& body) {
  const auto bell = std::make_shared<Bell>();
  auto group = CreateInprocGroup(size, {.timeout = timeout, .bell = bell});
  std::vector<std::unique_ptr<Carrier>> threads;
  for (int carrier = 0, rank = 0; carrier < carriers; ++carrier) {
    const int seats = size * (carrier + 1) / carriers - rank;
    threads.push_back(std::make_unique<Carrier>(seats, bell));
    for (int index = 0; index < seats; ++index, ++rank) {
      Seat* const seat = &threads.back()->seat(index);
      seat->Post([&, seat, rank] {
        TestDevice device;
        auto communicator = JoinInprocGroup(group, rank, &device, seat->shared() ? seat : nullptr);
        body(*communicator, device);
        device.Synchronize().IgnoreError();
      });
    }
  }
}

inline Transport CarriedTransport(std::string name, int carriers) {
  return {.name = std::move(name),
          .sizes = {3, 8},
          .run = [carriers](int size, absl::Duration timeout, const RankBody& body) {
            RunCarried(size, std::min(carriers, size), timeout, body);
          }};
}

inline Transport InprocTransport(std::string name, int cores, TestDevice::Queue queue) {
  return {.name = std::move(name),
          .sizes = {1, 2, 3, 8},
          .run = [cores, queue](int size, absl::Duration timeout, const RankBody& body) {
            RunInproc(size, {.timeout = timeout, .cores = cores}, queue, body);
          }};
}

}  // namespace tessera

#endif  // TESSERA_TESTS_PARALLEL_TRANSPORT_H_
