// Tells ThreadSanitizer about Abseil's mutex and notification. Distributions ship Abseil and gRPC
// without instrumentation, so that ThreadSanitizer would take everything their mutexes guard for a
// race. The functions here take the place of those in the shared library, for gRPC too: they call
// the real ones and say what these order. Linked into the tests of a ThreadSanitizer build only.
#include <dlfcn.h>
#include <sanitizer/tsan_interface.h>

#include <cstdio>
#include <cstdlib>
#include <string>

#include "absl/base/options.h"
#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"
#include "absl/time/time.h"

extern "C" {
void AnnotateIgnoreReadsBegin(const char* file, int line);
void AnnotateIgnoreReadsEnd(const char* file, int line);
}

namespace {

#define TESSERA_STRING_OF(name) #name
#define TESSERA_NAME_OF(name) TESSERA_STRING_OF(name)

// The function of the shared library whose mangled name ends in `tail`. The prefix of a const
// member has a K.
template <typename Function>
Function* Real(const char* tail, const char* prefix = "_ZN4absl") {
  const std::string space = TESSERA_NAME_OF(ABSL_OPTION_INLINE_NAMESPACE_NAME);
  const std::string name = prefix + std::to_string(space.size()) + space + tail;
  void* const found = dlsym(RTLD_NEXT, name.c_str());
  if (found == nullptr) {
    std::fprintf(stderr, "tsan_absl_mutex: no %s in the shared libraries\n", name.c_str());
    std::abort();
  }
  return reinterpret_cast<Function*>(found);
}

constexpr char kConst[] = "_ZNK4absl";

// Inside, the library evaluates conditions of other threads, on their behalf.
class Inside {
 public:
  Inside() { AnnotateIgnoreReadsBegin(__FILE__, __LINE__); }
  ~Inside() { AnnotateIgnoreReadsEnd(__FILE__, __LINE__); }
};

// Gives up `mutex` meanwhile, and holds it again afterwards.
template <typename Call>
auto GivenUp(absl::Mutex* mutex, Call call) {
  struct Acquire {
    ~Acquire() { __tsan_acquire(mutex); }
    absl::Mutex* mutex;
  } acquire{mutex};
  __tsan_release(mutex);
  Inside inside;
  return call();
}

}  // namespace

namespace absl {
ABSL_NAMESPACE_BEGIN

using M = Mutex;
using C = const Condition&;

void Mutex::Lock() ABSL_NO_THREAD_SAFETY_ANALYSIS {
  static auto* const real = Real<void(M*)>("5Mutex4LockEv");
  real(this);
  __tsan_acquire(this);
}

bool Mutex::TryLock() ABSL_NO_THREAD_SAFETY_ANALYSIS {
  static auto* const real = Real<bool(M*)>("5Mutex7TryLockEv");
  if (!real(this)) return false;
  __tsan_acquire(this);
  return true;
}

void Mutex::Unlock() ABSL_NO_THREAD_SAFETY_ANALYSIS {
  static auto* const real = Real<void(M*)>("5Mutex6UnlockEv");
  __tsan_release(this);
  Inside inside;
  real(this);
}

void Mutex::ReaderLock() ABSL_NO_THREAD_SAFETY_ANALYSIS {
  static auto* const real = Real<void(M*)>("5Mutex10ReaderLockEv");
  real(this);
  __tsan_acquire(this);
}

void Mutex::ReaderUnlock() ABSL_NO_THREAD_SAFETY_ANALYSIS {
  static auto* const real = Real<void(M*)>("5Mutex12ReaderUnlockEv");
  __tsan_release(this);
  Inside inside;
  real(this);
}

void Mutex::Await(C condition) {
  static auto* const real = Real<void(M*, C)>("5Mutex5AwaitERKNS0_9ConditionE");
  GivenUp(this, [&] { real(this, condition); });
}

bool Mutex::AwaitWithTimeout(C condition, Duration timeout) {
  static auto* const real =
      Real<bool(M*, C, Duration)>("5Mutex16AwaitWithTimeoutERKNS0_9ConditionENS0_8DurationE");
  return GivenUp(this, [&] { return real(this, condition, timeout); });
}

bool Mutex::AwaitWithDeadline(C condition, Time deadline) {
  static auto* const real =
      Real<bool(M*, C, Time)>("5Mutex17AwaitWithDeadlineERKNS0_9ConditionENS0_4TimeE");
  return GivenUp(this, [&] { return real(this, condition, deadline); });
}

void CondVar::Wait(M* mutex) {
  static auto* const real = Real<void(CondVar*, M*)>("7CondVar4WaitEPNS0_5MutexE");
  GivenUp(mutex, [&] { real(this, mutex); });
}

bool CondVar::WaitWithTimeout(M* mutex, Duration timeout) {
  static auto* const real =
      Real<bool(CondVar*, M*, Duration)>("7CondVar15WaitWithTimeoutEPNS0_5MutexENS0_8DurationE");
  return GivenUp(mutex, [&] { return real(this, mutex, timeout); });
}

bool CondVar::WaitWithDeadline(M* mutex, Time deadline) {
  static auto* const real =
      Real<bool(CondVar*, M*, Time)>("7CondVar16WaitWithDeadlineEPNS0_5MutexENS0_4TimeE");
  return GivenUp(mutex, [&] { return real(this, mutex, deadline); });
}

void Notification::Notify() {
  static auto* const real = Real<void(Notification*)>("12Notification6NotifyEv");
  __tsan_release(this);
  Inside inside;
  real(this);
}

void Notification::WaitForNotification() const {
  static auto* const real =
      Real<void(const Notification*)>("12Notification19WaitForNotificationEv", kConst);
  real(this);
  __tsan_acquire(const_cast<Notification*>(this));
}

bool Notification::WaitForNotificationWithTimeout(Duration timeout) const {
  static auto* const real = Real<bool(const Notification*, Duration)>(
      "12Notification30WaitForNotificationWithTimeoutENS0_8DurationE", kConst);
  if (!real(this, timeout)) return false;
  __tsan_acquire(const_cast<Notification*>(this));
  return true;
}

ABSL_NAMESPACE_END
}  // namespace absl
