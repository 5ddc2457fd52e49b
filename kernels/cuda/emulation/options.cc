#include <algorithm>
#include <cstdlib>
#include <iterator>

#include "kernels/cuda/emulation/global_memory.h"

namespace tessera::simt::emulation {
namespace {

template <typename T>
void Override(const char* name, T* value) {
  // NOLINTNEXTLINE(concurrency-mt-unsafe): nothing here changes the environment
  const char* text = std::getenv(name);
  if (text != nullptr && *text != 0) *value = static_cast<T>(std::strtoull(text, nullptr, 10));
}

// The most threads that a kernel may be launched with: its entry has a no-operation per warp (see
// SIMT_KERNEL), behind the mark of indirect branches. Without any nothing is known.
size_t ThreadBound(const void* code) {
  constexpr unsigned char kNop = 0x90;
  constexpr unsigned char kEndBranch[] = {0xf3, 0x0f, 0x1e, 0xfa};
  const auto* at = static_cast<const unsigned char*>(code);
  if (at == nullptr) return kMaxThreadsPerBlock;
  if (std::equal(std::begin(kEndBranch), std::end(kEndBranch), at)) at += sizeof(kEndBranch);
  size_t warps = 0;
  while (warps < kMaxThreadsPerBlock / kWarpSize && at[warps] == kNop) ++warps;
  return warps == 0 ? kMaxThreadsPerBlock : warps * kWarpSize;
}

}  // namespace

Options OptionsFromEnvironment() {
  Options o;
  Override("TESSERA_EMULATION_SEED", &o.seed);
  Override("TESSERA_EMULATION_PREEMPT", &o.preempt_every);
  Override("TESSERA_EMULATION_RACES", &o.check_races);
  Override("TESSERA_EMULATION_RESIDENT", &o.resident_clusters);
  Override("TESSERA_EMULATION_GPUS", &o.devices);
  Override("TESSERA_EMULATION_ARCH", &o.compute_capability);
  Override("TESSERA_EMULATION_MEMORY", &o.memory_bytes);
  Override("TESSERA_EMULATION_PATIENCE", &o.patience_milliseconds);
  o.devices = std::clamp(o.devices, 0, kMaxDevices);
  return o;
}

Machine* const machine = new Machine;

void SetOptions(const Options& options) { M().options = options; }
const Options& GetOptions() { return M().options; }
Statistics& Counters() { return M().statistics; }
const std::set<std::string>& ReportedFormats() { return M().formats; }

size_t SharedBytesPerBlock() {
  const int capability = M().options.compute_capability;
  if (capability == 86 || capability == 89 || capability >= 120) return size_t{99} << 10;
  return (capability >= 90 ? size_t{227} : size_t{163}) << 10;
}

std::string Refusal(const Shape& s, const void* code) {
  const Options& o = M().options;
  const size_t threads = size_t{s.block.x} * s.block.y * s.block.z;
  const size_t blocks = size_t{s.cluster.x} * s.cluster.y * s.cluster.z;
  const auto text = [](auto... parts) { return (std::string() + ... + parts); };
  if (threads == 0 || threads > kMaxThreadsPerBlock || s.block.z > 64) {
    return text("a block of ", std::to_string(threads), " threads; there may be 1 to 1024");
  }
  if (threads > ThreadBound(code)) {
    return text("a block of ", std::to_string(threads), " threads; the kernel is made for ",
                std::to_string(ThreadBound(code)));
  }
  if (s.grid.x == 0 || s.grid.y == 0 || s.grid.z == 0 || s.grid.x > 0x7fffffffU ||
      s.grid.y > 65535 || s.grid.z > 65535) {
    return text("a grid of ", std::to_string(s.grid.x), " x ", std::to_string(s.grid.y), " x ",
                std::to_string(s.grid.z), " blocks");
  }
  if (blocks == 0 || blocks > kMaxBlocksPerCluster || (blocks > 1 && o.compute_capability < 90)) {
    return text("a cluster of ", std::to_string(blocks), " blocks");
  }
  if (s.grid.x % s.cluster.x != 0 || s.grid.y % s.cluster.y != 0 || s.grid.z % s.cluster.z != 0) {
    return "a grid that is no multiple of the cluster";
  }
  if (s.together && s.grid.x * s.grid.y * s.grid.z > static_cast<unsigned>(o.multiprocessors)) {
    return text("blocks that wait for other GPUs, more than the ",
                std::to_string(o.multiprocessors), " multiprocessors");
  }
  if (s.shared_bytes > SharedBytesPerBlock()) {
    return text(std::to_string(s.shared_bytes), " bytes of shared memory; a block may have ",
                std::to_string(SharedBytesPerBlock()));
  }
  if (2 * threads * blocks + threads * blocks / kThreadsPerWarpgroup + kTmaAgents >=
      size_t{1} << kComponentBits) {
    return text("a cluster of ", std::to_string(threads * blocks),
                " threads, more than the emulator has clocks for");
  }
  return "";
}

}  // namespace tessera::simt::emulation
