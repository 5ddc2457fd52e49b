// What the control groups of this process let it use: memory and processor time.
#ifndef TESSERA_KERNELS_CORE_CONTROL_GROUP_H_
#define TESSERA_KERNELS_CORE_CONTROL_GROUP_H_

#include <cstdint>
#include <limits>
#include <string>

namespace tessera {

constexpr int64_t kNoLimit = std::numeric_limits<int64_t>::max();

// Both versions of control groups, also side by side ("hybrid"). A limit of any ancestor counts, as
// far up as this process can see: in a container that is its own group. The files are read anew by
// every call.
class ControlGroup {
 public:
  // `membership`: the process's groups; `mount`: where groups are mounted.
  explicit ControlGroup(std::string membership = "/proc/self/cgroup",
                        std::string mount = "/sys/fs/cgroup")
      : membership_(std::move(membership)), mount_(std::move(mount)) {}

  // Bytes that may still be taken, file cache that can be dropped included: the least of all
  // groups on the way up. kNoLimit when there is no limit.
  int64_t AvailableMemory() const;
  // Processors' worth of time, rounded up, at least 1. kNoLimit when there is no quota.
  int64_t Cpus() const;

 private:
  const std::string membership_;
  const std::string mount_;
};

// Processors this process may use at a time: by affinity and by the quota of its control groups.
// What is true at the first call stays.
int UsableCpus();

}  // namespace tessera

#endif  // TESSERA_KERNELS_CORE_CONTROL_GROUP_H_
