#include "kernels/core/host_device.h"

#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <limits>
#include <string>

#include "absl/strings/str_cat.h"
#include "kernels/core/control_group.h"

namespace tessera {
namespace {

constexpr size_t kMappingBytes = size_t{4} << 20;
constexpr size_t kHugePage = size_t{2} << 20;
constexpr size_t kAlignment = 64;

std::atomic<int64_t> bytes_held{0};

// What the machine has left.
int64_t AvailableInMachine() {
  std::ifstream file("/proc/meminfo");
  std::string word;
  int64_t kibibytes = 0;
  while (file >> word) {
    if (word == "MemAvailable:" && file >> kibibytes) return kibibytes * 1024;
  }
  return kNoLimit;
}

int64_t AvailableAtFirstUse() {
  static const int64_t available = AvailableHostMemory();
  return available;
}

void* MapHugePages(size_t bytes) {
  const size_t mapped = bytes + kHugePage;
  void* base = mmap(nullptr, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (base == MAP_FAILED) return nullptr;
  const auto begin = reinterpret_cast<uintptr_t>(base);
  const uintptr_t aligned = (begin + kHugePage - 1) / kHugePage * kHugePage;
  const size_t head = aligned - begin;
  if (head > 0) munmap(base, head);
  char* data = static_cast<char*>(base) + head;
  munmap(data + bytes, mapped - head - bytes);
  madvise(data, bytes, MADV_HUGEPAGE);  // Advice only; small pages work as well.
  return data;
}

size_t RoundUp(size_t bytes) {
  const size_t unit = bytes >= kMappingBytes ? kHugePage : kAlignment;
  return std::max(unit, (bytes + unit - 1) / unit * unit);
}

}  // namespace

int64_t AvailableHostMemory() {
  return std::min(AvailableInMachine(), ControlGroup().AvailableMemory());
}

void HostDevice::Upload(void* device, const void* host, size_t bytes) {
  if (bytes > 0 && status_.ok()) std::memcpy(device, host, bytes);
}

void HostDevice::Download(void* host, const void* device, size_t bytes) {
  if (bytes > 0 && status_.ok()) std::memcpy(host, device, bytes);
}

void HostDevice::Run(std::function<absl::Status()> work) {
  if (status_.ok()) status_ = work();
}

absl::StatusOr<void*> HostDevice::AllocateBytes(size_t bytes) {
  const int64_t limit = memory_limit_ > 0 ? memory_limit_ : AvailableAtFirstUse();
  if (bytes > static_cast<size_t>(std::numeric_limits<int64_t>::max() / 2)) {
    return absl::ResourceExhaustedError(absl::StrCat(bytes, " bytes exceed any address space"));
  }
  const size_t rounded = RoundUp(bytes);
  const auto size = static_cast<int64_t>(rounded);
  const int64_t held = bytes_held.fetch_add(size);
  if (held > limit - size) {
    bytes_held.fetch_sub(size);
    return absl::ResourceExhaustedError(
        absl::StrCat(held, " bytes of host memory are in use of ", limit, " that may be used"));
  }
  void* data =
      rounded >= kMappingBytes ? MapHugePages(rounded) : std::aligned_alloc(kAlignment, rounded);
  if (data == nullptr) {
    bytes_held.fetch_sub(size);
    return absl::ResourceExhaustedError("the operating system refused the memory");
  }
  if (rounded < kMappingBytes) std::memset(data, 0, rounded);
  return data;
}

void HostDevice::FreeBytes(void* device, size_t bytes) {
  const size_t rounded = RoundUp(bytes);
  if (rounded >= kMappingBytes) {
    munmap(device, rounded);
  } else {
    std::free(device);
  }
  bytes_held.fetch_sub(static_cast<int64_t>(rounded));
}

}  // namespace tessera
