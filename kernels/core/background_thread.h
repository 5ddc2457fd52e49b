// Threads that serve the whole process and never end.
#ifndef TESSERA_KERNELS_CORE_BACKGROUND_THREAD_H_
#define TESSERA_KERNELS_CORE_BACKGROUND_THREAD_H_

#include <functional>

namespace tessera {

// Runs `body` on a thread of its own until the process exits. All signals are blocked there: they
// are for threads that expect them. Any thread.
void StartBackgroundThread(std::function<void()> body);

}  // namespace tessera

#endif  // TESSERA_KERNELS_CORE_BACKGROUND_THREAD_H_
