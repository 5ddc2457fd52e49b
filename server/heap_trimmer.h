// Gives memory back that a burst of requests has left free inside the heap.
#ifndef TESSERA_SERVER_HEAP_TRIMMER_H_
#define TESSERA_SERVER_HEAP_TRIMMER_H_

#include <cstdint>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"

namespace tessera {

struct HeapTrimmerOptions {
  absl::Duration interval = absl::Seconds(5);
  // Growth of the process that makes a look at the heap worth it.
  int64_t growth_bytes = int64_t{32} << 20;
};

// The C library keeps what its arenas have freed: 20,000 calls that a client resets at once left
// 400 MiB behind, three times that a gigabyte. A thread reads how large the process is, which costs
// some microseconds, and trims the heap only after growth.
class HeapTrimmer {
 public:
  explicit HeapTrimmer(HeapTrimmerOptions options = {});
  ~HeapTrimmer();
  HeapTrimmer(const HeapTrimmer&) = delete;
  HeapTrimmer& operator=(const HeapTrimmer&) = delete;

 private:
  void Run();

  const HeapTrimmerOptions options_;
  absl::Mutex mutex_;
  bool stop_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread thread_;  // last: everything it uses exists
};

}  // namespace tessera

#endif  // TESSERA_SERVER_HEAP_TRIMMER_H_
