// Latency and throughput of collectives between rank threads and, over Gloo on the loopback device,
// between ranks that could be processes. Prints the limit, the value and their ratio.
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "kernels/core/host_device.h"
#include "parallel/carrier/carrier.h"
#include "parallel/gloo/gloo_communicator.h"
#include "parallel/inproc/inproc_communicator.h"
#include "parallel/rendezvous_store.h"

namespace tessera {
namespace {

constexpr int kRepeats = 15;

using Join = std::function<std::unique_ptr<Communicator>(int rank, Device* device)>;
using Operation = std::function<void(Communicator&, TensorView data, TensorView all)>;

struct Run {
  int ranks = 2;
  int64_t bytes = 4096;
  int iterations = 2000;
  Operation operation;
};

double ProcessorSeconds() {
  rusage used{};
  getrusage(RUSAGE_SELF, &used);
  const auto seconds = [](const timeval& time) {
    return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_usec) * 1e-6;
  };
  return seconds(used.ru_utime) + seconds(used.ru_stime);
}

// One rank's part of a run; rank 0 notes the mean time of an operation in each repeat.
void DoRank(Communicator* communicator, HostDevice& device, const Run& run,
            std::vector<double>& times) {
  if (communicator == nullptr) std::exit(1);
  auto data = *device.Allocate(run.bytes, "data");
  auto all = *device.Allocate(run.bytes * run.ranks, "gathered");
  const TensorView in = data.View(DType::kF32, {run.bytes / 4});
  const TensorView out = all.View(DType::kF32, {run.bytes * run.ranks / 4});
  for (int repeat = 0; repeat < kRepeats; ++repeat) {
    communicator->Barrier();
    const absl::Time start = absl::Now();
    for (int i = 0; i < run.iterations; ++i) run.operation(*communicator, in, out);
    const double used = absl::ToDoubleMicroseconds(absl::Now() - start) / run.iterations;
    if (communicator->rank() == 0) times.push_back(used);
  }
  if (const absl::Status status = device.Synchronize(); !status.ok()) {
    std::fprintf(stderr, "%s\n", std::string(status.message()).c_str());
    std::exit(1);
  }
}

// Median over repeats of the mean time of one operation, in microseconds.
double Summarise(const Run& run, double processor_seconds, std::vector<double> times) {
  std::sort(times.begin(), times.end());
  std::printf("    best %.2f, median %.2f, worst %.2f us; processor time %.2f us\n", times.front(),
              times[times.size() / 2], times.back(),
              processor_seconds * 1e6 / kRepeats / run.iterations);
  return times[times.size() / 2];
}

double MeasureThreads(const Join& join, const Run& run) {
  std::vector<double> times;
  std::vector<std::thread> threads;
  const double busy = ProcessorSeconds();
  for (int rank = 0; rank < run.ranks; ++rank) {
    threads.emplace_back([&, rank] {
      HostDevice device;
      const auto communicator = join(rank, &device);
      DoRank(communicator.get(), device, run, times);
    });
  }
  for (std::thread& thread : threads) thread.join();
  return Summarise(run, ProcessorSeconds() - busy, times);
}

double MeasureInproc(const Run& run) {
  auto group = CreateInprocGroup(run.ranks);
  return MeasureThreads(
      [&group](int rank, Device* device) { return JoinInprocGroup(group, rank, device); }, run);
}

// Ranks that share `carriers` threads, as the engine runs them when cores are short.
double MeasureCarried(const Run& run, int carriers) {
  const auto bell = std::make_shared<Bell>();
  auto group = CreateInprocGroup(run.ranks, {.bell = bell});
  std::vector<double> times;
  const double busy = ProcessorSeconds();
  {
    std::vector<std::unique_ptr<Carrier>> threads;
    for (int carrier = 0, rank = 0; carrier < carriers; ++carrier) {
      const int seats = run.ranks * (carrier + 1) / carriers - rank;
      threads.push_back(std::make_unique<Carrier>(seats, bell));
      for (int index = 0; index < seats; ++index, ++rank) {
        Seat* const seat = &threads.back()->seat(index);
        seat->Post([&, seat, rank] {
          HostDevice device;
          const auto communicator =
              JoinInprocGroup(group, rank, &device, seat->shared() ? seat : nullptr);
          DoRank(communicator.get(), device, run, times);
        });
      }
    }
  }
  return Summarise(run, ProcessorSeconds() - busy, times);
}

double MeasureGloo(const Run& run) {
  MemoryRendezvousStore store;
  auto endpoint = CreateGlooEndpoint({.interface = "lo"});
  return MeasureThreads(
      [&](int rank, Device* device) -> std::unique_ptr<Communicator> {
        if (!endpoint.ok()) return nullptr;
        auto joined = JoinGlooGroup(*endpoint, &store,
                                    {.name = "bench", .rank = rank, .size = run.ranks}, device);
        return joined.ok() ? *std::move(joined) : nullptr;
      },
      run);
}

void Report(const char* what, double limit, double value, const char* unit) {
  std::printf("%-54s limit %8.2f  value %8.2f %s  ratio %.2f\n", what, limit, value, unit,
              value / limit);
}

void AllReduce(Communicator& communicator, TensorView data, TensorView) {
  communicator.AllReduce(data);
}
void AllGather(Communicator& communicator, TensorView data, TensorView all) {
  communicator.AllGather(data, all);
}

// Gigabytes per second of plain copies by one thread: no collective moves bytes faster.
double CopyBandwidth() {
  std::vector<char> from(64 << 20, 1);
  std::vector<char> to(from.size(), 2);
  const absl::Time start = absl::Now();
  constexpr int kCopies = 8;
  for (int i = 0; i < kCopies; ++i) {
    from[i] = static_cast<char>(i);
    std::copy(from.begin(), from.end(), to.begin());
  }
  return kCopies * static_cast<double>(from.size()) /
         absl::ToDoubleNanoseconds(absl::Now() - start);
}

int Main() {
  const long cores = sysconf(_SC_NPROCESSORS_ONLN);
  std::printf("%ld cores\n", cores);
  Report("in-process all-reduce, 2 ranks x 4 KB", 5,
         MeasureInproc({.ranks = 2, .bytes = 4096, .operation = AllReduce}), "us");
  Report("in-process all-gather, 2 ranks x 4 KB", 5,
         MeasureInproc({.ranks = 2, .bytes = 4096, .operation = AllGather}), "us");
  const int threads = static_cast<int>(std::min(8L, cores));
  Report("in-process all-reduce, 8 ranks x 8 KB, shared threads", 20,
         MeasureCarried({.ranks = 8, .bytes = 8192, .operation = AllReduce}, threads), "us");
  // Sleeping ranks on few cores: a wake-up each, about 5 us, on each core in turn.
  Report("in-process all-reduce, 8 ranks x 8 KB, own threads", 5.0 * 8 / threads,
         MeasureInproc({.ranks = 8, .bytes = 8192, .iterations = 500, .operation = AllReduce}),
         "us");
  const double bandwidth = CopyBandwidth();
  constexpr int64_t kLarge = 8 << 20;
  const double large =
      MeasureInproc({.ranks = 2, .bytes = kLarge, .iterations = 10, .operation = AllReduce});
  Report("in-process all-reduce, 2 ranks x 8 MB (GB/s per rank)", bandwidth,
         static_cast<double>(kLarge) / 1000 / large, "GB/s");
  Report("Gloo all-reduce over lo, 2 ranks x 4 KB", 165,
         MeasureGloo({.ranks = 2, .bytes = 4096, .iterations = 200, .operation = AllReduce}), "us");
  const double gloo =
      MeasureGloo({.ranks = 2, .bytes = kLarge, .iterations = 3, .operation = AllReduce});
  Report("Gloo all-reduce over lo, 2 ranks x 8 MB (GB/s per rank)", bandwidth,
         static_cast<double>(kLarge) / 1000 / gloo, "GB/s");
  return 0;
}

}  // namespace
}  // namespace tessera

int main() { return tessera::Main(); }
