/* Preloaded into a process: its wall clock is ahead of the machine's by the seconds in the file that
   TESSERA_CLOCK_SHIFT names, which may change at any moment. Monotonic clocks stay. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/futex.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static const volatile int64_t* shift;

__attribute__((constructor)) static void Map(void) {
  const int fd = open(getenv("TESSERA_CLOCK_SHIFT"), O_RDONLY | O_CLOEXEC);
  void* map = mmap(NULL, sizeof(*shift), PROT_READ, MAP_SHARED, fd, 0);
  close(fd);
  if (map == MAP_FAILED) abort();
  shift = map;
}

static int64_t Shift(void) { return shift == NULL ? 0 : *shift; }

static long Call(long number, long a, long b, long c, long d, long e, long f) {
  register long r10 __asm__("r10") = d;
  register long r8 __asm__("r8") = e;
  register long r9 __asm__("r9") = f;
  long result;
  __asm__ volatile("syscall"
                   : "=a"(result)
                   : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                   : "rcx", "r11", "memory");
  return result;
}

int clock_gettime(clockid_t clock, struct timespec* time) {
  if (Call(SYS_clock_gettime, clock, (long)time, 0, 0, 0, 0) != 0) return -1;
  if (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE) time->tv_sec += Shift();
  return 0;
}

int gettimeofday(struct timeval* restrict now, void* restrict zone) {
  (void)zone;
  struct timespec time;
  clock_gettime(CLOCK_REALTIME, &time);
  now->tv_sec = time.tv_sec;
  now->tv_usec = time.tv_nsec / 1000;
  return 0;
}

time_t time(time_t* out) {
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  if (out != NULL) *out = now.tv_sec;
  return now.tv_sec;
}

/* Abseil waits for wall times by itself. */
long syscall(long number, ...) {
  va_list list;
  va_start(list, number);
  long a[6];
  for (int i = 0; i < 6; ++i) a[i] = va_arg(list, long);
  va_end(list);
  struct timespec limit;
  if (number == SYS_futex && (a[1] & FUTEX_CLOCK_REALTIME) != 0 && a[3] != 0) {
    limit = *(const struct timespec*)a[3];
    limit.tv_sec -= Shift();
    a[3] = (long)&limit;
  }
  extern int* __errno_location(void);
  const long result = Call(number, a[0], a[1], a[2], a[3], a[4], a[5]);
  if (result >= 0 || result < -4095) return result;
  *__errno_location() = (int)-result;
  return -1;
}
