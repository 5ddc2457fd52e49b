// Sleeping in the kernel until another thread changes a word.
#ifndef TESSERA_PARALLEL_CARRIER_FUTEX_H_
#define TESSERA_PARALLEL_CARRIER_FUTEX_H_

#include <atomic>
#include <cstdint>

#include "absl/time/time.h"

namespace tessera {

// Sleeps while *word == expected, at most `timeout`. May return early. Threads of one process only.
void FutexWait(std::atomic<uint32_t>* word, uint32_t expected, absl::Duration timeout);
void FutexWakeAll(std::atomic<uint32_t>* word);

}  // namespace tessera

#endif  // TESSERA_PARALLEL_CARRIER_FUTEX_H_
