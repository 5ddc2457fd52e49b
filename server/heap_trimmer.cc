#include "server/heap_trimmer.h"

#include <malloc.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>

#include "kernels/core/monotonic_time.h"

namespace tessera {
namespace {

// 0 where the system does not say.
int64_t ResidentBytes() {
  int64_t total = 0;
  int64_t resident = 0;
  std::ifstream("/proc/self/statm") >> total >> resident;
  return resident * sysconf(_SC_PAGESIZE);
}

void TrimHeap() {
#ifdef __GLIBC__
  malloc_trim(0);
#endif
}

}  // namespace

HeapTrimmer::HeapTrimmer(HeapTrimmerOptions options)
    : options_(options), thread_([this] { Run(); }) {}

HeapTrimmer::~HeapTrimmer() {
  {
    absl::MutexLock lock(&mutex_);
    stop_ = true;
  }
  thread_.join();
}

void HeapTrimmer::Run() {
  int64_t trimmed = ResidentBytes();
  while (true) {
    {
      absl::MutexLock lock(&mutex_);
      if (AwaitFor(&mutex_, absl::Condition(&stop_), options_.interval)) return;
    }
    const int64_t resident = ResidentBytes();
    if (resident < trimmed + options_.growth_bytes) {
      trimmed = std::min(trimmed, resident);
      continue;
    }
    TrimHeap();
    trimmed = ResidentBytes();
  }
}

}  // namespace tessera
