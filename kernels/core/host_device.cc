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

namespace tessera {
namespace {

constexpr int64_t kUnknown = std::numeric_limits<int64_t>::max();
constexpr size_t kMappingBytes = size_t{4} << 20;
constexpr size_t kHugePage = size_t{2} << 20;
constexpr size_t kAlignment = 64;

std::atomic<int64_t> bytes_held{0};

// The number after `key` in a file of "key value" lines; with an empty key the first word.
int64_t ReadNumber(const std::string& path, const std::string& key) {
  std::ifstream file(path);
  std::string word;
  while (file >> word) {
    if (key.empty() || word == key) {
      if (!key.empty() && !(file >> word)) break;
      char* end = nullptr;
      const int64_t value = std::strtoll(word.c_str(), &end, 10);
      return end == word.c_str() ? kUnknown : value;
    }
  }
  return kUnknown;
}

// Directory of this process's version 2 control group, or the mount point when unknown.
std::string ControlGroup() {
  std::ifstream file("/proc/self/cgroup");
  std::string line;
  while (std::getline(file, line)) {
    if (line.rfind("0::", 0) == 0) return absl::StrCat("/sys/fs/cgroup", line.substr(3));
  }
  return "/sys/fs/cgroup";
}

int64_t ControlGroupAvailable() {
  std::string directory = ControlGroup();
  if (ReadNumber(directory + "/memory.max", "") == kUnknown) directory = "/sys/fs/cgroup";
  const int64_t limit = ReadNumber(directory + "/memory.max", "");
  const int64_t used = ReadNumber(directory + "/memory.current", "");
  if (limit == kUnknown || used == kUnknown) return kUnknown;
  int64_t reclaimable = ReadNumber(directory + "/memory.stat", "inactive_file");
  if (reclaimable == kUnknown) reclaimable = 0;
  return std::max<int64_t>(0, limit - used + reclaimable);
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
  int64_t machine = ReadNumber("/proc/meminfo", "MemAvailable:");
  if (machine != kUnknown) machine *= 1024;
  return std::min(machine, ControlGroupAvailable());
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
