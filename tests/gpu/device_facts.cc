#include "tests/gpu/device_facts.h"

#include <cuda_runtime.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <fstream>
#include <functional>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "kernels/core/status_macros.h"
#include "kernels/cuda/cuda_error.h"

namespace tessera {
namespace {

using Json = nlohmann::ordered_json;

#ifdef SIMT_EMULATED
constexpr bool kEmulated = true;
constexpr size_t kCopiedBytes = size_t{1} << 20;
#else
constexpr bool kEmulated = false;
constexpr size_t kCopiedBytes = size_t{1} << 30;  // far more than any cache holds
#endif

// A program that measures has no use for a GPU that fails.
void Check(cudaError_t error, const char* action) {
  const absl::Status status = cuda::ToStatus(error, 0, action);
  if (!status.ok()) CheckFailed(std::string(status.message()));
}

std::string Version(int (*of)()) {
  const int version = of();
  return absl::StrCat(version / 1000, ".", version % 1000 / 10);
}
int Driver() {
  int version = 0;
  Check(cudaDriverGetVersion(&version), "asking for the driver");
  return version;
}
int Runtime() {
  int version = 0;
  Check(cudaRuntimeGetVersion(&version), "asking for the runtime");
  return version;
}

// Null where the GPU does not say; `unit` turns what it says into Hz or bytes.
Json Attribute(cudaDeviceAttr attribute, int gpu, int64_t unit) {
  int value = 0;
  if (cudaDeviceGetAttribute(&value, attribute, gpu) == cudaSuccess) return value * unit;
  cudaGetLastError();  // is not that of a later call
  return nullptr;
}

Json GpuFacts(int gpu, int count) {
  cudaDeviceProp properties;
  Check(cudaGetDeviceProperties(&properties, gpu), "asking for properties");
  Json peers = Json::array();
  for (int peer = 0; peer < count; ++peer) {
    int can = 0;
    if (peer == gpu) continue;
    Check(cudaDeviceCanAccessPeer(&can, gpu, peer), "asking for peers");
    if (can != 0) peers.push_back(peer);
  }
  constexpr int64_t kKilo = 1000;
  return {{"name", properties.name},
          {"compute_capability", absl::StrCat(properties.major, ".", properties.minor)},
          {"multiprocessors", properties.multiProcessorCount},
          {"memory_bytes", properties.totalGlobalMem},
          {"clock_hz", Attribute(cudaDevAttrClockRate, gpu, kKilo)},
          {"memory_clock_hz", Attribute(cudaDevAttrMemoryClockRate, gpu, kKilo)},
          {"memory_bus_bits", Attribute(cudaDevAttrGlobalMemoryBusWidth, gpu, 1)},
          {"l2_bytes", Attribute(cudaDevAttrL2CacheSize, gpu, 1)},
          {"ecc", Attribute(cudaDevAttrEccEnabled, gpu, 1)},
          {"peers", peers}};
}

// Seconds of one call, of `calls` that are waited for together; the best of three.
double Seconds(int calls, const std::function<void()>& call) {
  using Clock = std::chrono::steady_clock;
  double best = 0;
  for (int round = 0; round < 4; ++round) {  // the first one warms up
    const Clock::time_point start = Clock::now();
    for (int i = 0; i < calls; ++i) call();
    Check(cudaDeviceSynchronize(), "measuring");
    const std::chrono::duration<double> taken = Clock::now() - start;
    const double seconds = taken.count() / calls;
    if (round == 1 || (round > 1 && seconds < best)) best = seconds;
  }
  return best;
}

Json Measured() {
  Check(cudaSetDevice(0), "choosing it");
  size_t free_bytes = 0;
  size_t total_bytes = 0;
  Check(cudaMemGetInfo(&free_bytes, &total_bytes), "asking for its memory");
  const size_t bytes = std::min(kCopiedBytes, free_bytes / 8);
  void* from = nullptr;
  void* to = nullptr;
  void* host = nullptr;
  Check(cudaMalloc(&from, bytes), "allocating");
  Check(cudaMalloc(&to, bytes), "allocating");
  Check(cudaMallocHost(&host, bytes), "allocating host memory");
  Check(cudaMemset(from, 0, bytes), "writing");
  const auto copy = [&](void* target, const void* source, cudaMemcpyKind kind, int calls) {
    const double seconds = Seconds(
        calls, [&] { Check(cudaMemcpyAsync(target, source, bytes, kind, nullptr), "copying"); });
    return static_cast<double>(bytes) / seconds;
  };
  Json measured = {{"copied_bytes", bytes}, {"free_bytes", free_bytes}};
  // A copy inside the GPU reads each byte and writes it.
  measured["memory_bytes_per_second"] = 2 * copy(to, from, cudaMemcpyDeviceToDevice, 10);
  measured["download_bytes_per_second"] = copy(host, from, cudaMemcpyDeviceToHost, 2);
  measured["upload_bytes_per_second"] = copy(to, host, cudaMemcpyHostToDevice, 2);
  const auto launch = [&] { Check(cudaMemsetAsync(to, 0, 4, nullptr), "launching"); };
  measured["launch_seconds"] = Seconds(kEmulated ? 10 : 1000, launch);
  measured["launch_and_wait_seconds"] = Seconds(1, launch);
  Check(cudaFree(from), "freeing");
  Check(cudaFree(to), "freeing");
  Check(cudaFreeHost(host), "freeing");
  return measured;
}

}  // namespace

int WriteDeviceFacts(const std::string& path) {
  if (const absl::Status status = cuda::CheckGpu(0); !status.ok()) {
    std::fprintf(stderr, "%s\n", std::string(status.message()).c_str());
    return kExitNoGpu;
  }
  int count = 0;
  Check(cudaGetDeviceCount(&count), "counting");
  Json facts = {{"emulated", kEmulated},
                {"driver", Version(Driver)},
                {"runtime", Version(Runtime)},
                {"gpus", Json::array()}};
  for (int gpu = 0; gpu < count; ++gpu) facts["gpus"].push_back(GpuFacts(gpu, count));
  facts["measured"] = Measured();
  std::ofstream(path) << facts.dump(2) << "\n";
  std::printf("%s\n", facts.dump(2).c_str());
  return 0;
}

}  // namespace tessera
