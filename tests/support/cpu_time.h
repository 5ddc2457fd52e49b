// How long a thread has worked: unlike the time on the wall, the same on a busy machine.
#ifndef TESSERA_TESTS_SUPPORT_CPU_TIME_H_
#define TESSERA_TESTS_SUPPORT_CPU_TIME_H_

#include <ctime>

namespace tessera {

// Sanitizers make the same work slower; limits are multiplied by this.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr double kSlowdown = 10;
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
constexpr double kSlowdown = 10;
#else
constexpr double kSlowdown = 1;
#endif
#else
constexpr double kSlowdown = 1;
#endif

// Seconds of processor time of the calling thread.
inline double ThreadCpuSeconds() {
  timespec now;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

}  // namespace tessera

#endif  // TESSERA_TESTS_SUPPORT_CPU_TIME_H_
