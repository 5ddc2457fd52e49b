#include "kernels/core/read_bandwidth.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdint>

#include "kernels/core/host_device.h"
#include "kernels/core/status_macros.h"
#include "kernels/core/thread_pool.h"

namespace tessera {
namespace {

// Four streams, fetched ahead: what most machines need to reach their limit.
uint64_t Read(const uint64_t* data, int64_t count) {
  constexpr int64_t kStreams = 4;
  constexpr int64_t kAhead = 256;  // words
  const int64_t share = count / kStreams;
  uint64_t sums[8] = {};
  for (int64_t i = 0; i < share; i += 8) {
    for (int64_t stream = 0; stream < kStreams; ++stream) {
      const uint64_t* line = data + stream * share + i;
      __builtin_prefetch(line + kAhead);
      for (int lane = 0; lane < 8; ++lane) sums[lane] ^= line[lane];
    }
  }
  uint64_t all = 0;
  for (uint64_t sum : sums) all ^= sum;
  return all;
}

}  // namespace

absl::StatusOr<double> MeasureReadBandwidth(int num_threads) {
  constexpr int64_t kWords = int64_t{128} << 20;  // 1 GiB: large servers cache hundreds of MiB
  constexpr int kRounds = 5;
  HostDevice device;  // huge pages, as weights have them
  ASSIGN_OR_RETURN(const DeviceBuffer buffer, device.Allocate(kWords * 8, "memory to read"));
  auto* memory = static_cast<uint64_t*>(buffer.data());
  std::fill_n(memory, kWords, 1);
  ThreadPool pool(num_threads);
  const int64_t share = kWords / num_threads / 32 * 32;
  std::atomic<uint64_t> sink{0};  // keeps the reads alive
  double best = HUGE_VAL;
  for (int round = 0; round < kRounds; ++round) {
    const auto start = std::chrono::steady_clock::now();
    pool.ParallelFor(
        num_threads, [&](int64_t i) { sink.fetch_add(Read(memory + i * share, share)); },
        Schedule::kStatic);
    const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start;
    best = std::min(best, elapsed.count());
  }
  return static_cast<double>(share * num_threads) * 8 / best;
}

}  // namespace tessera
