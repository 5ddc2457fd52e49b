#include "parallel/carrier/fiber.h"

#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <utility>

#include "kernels/core/status_macros.h"

#if defined(__SANITIZE_ADDRESS__)
#define TESSERA_ASAN_FIBERS 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define TESSERA_ASAN_FIBERS 1
#endif
#endif
#if defined(__SANITIZE_THREAD__)
#define TESSERA_TSAN_FIBERS 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define TESSERA_TSAN_FIBERS 1
#endif
#endif

#if defined(TESSERA_ASAN_FIBERS)
#include <sanitizer/common_interface_defs.h>
#endif
#if defined(TESSERA_TSAN_FIBERS)
#include <sanitizer/tsan_interface.h>
#endif

namespace tessera {
namespace {

// As much as a thread has by default; only touched pages take memory.
constexpr size_t kStackBytes = size_t{8} << 20;

// One side of a switch, as the sanitizers need to know it: without being told they would take the
// other stack for an overflow of this one. Nothing without a sanitizer.
class SanitizedStack {
 public:
  // The stack of the running thread when `bottom` is null.
  void Describe([[maybe_unused]] const void* bottom, [[maybe_unused]] size_t bytes) {
#if defined(TESSERA_ASAN_FIBERS)
    bottom_ = bottom;
    bytes_ = bytes;
#endif
#if defined(TESSERA_TSAN_FIBERS)
    owned_ = bottom != nullptr;
    fiber_ = owned_ ? __tsan_create_fiber(0) : __tsan_get_current_fiber();
#endif
  }
  void Release() {
#if defined(TESSERA_TSAN_FIBERS)
    if (owned_) __tsan_destroy_fiber(fiber_);
#endif
  }
  // Right before a switch from this stack to `to`; `last`: this one will not run again.
  void Leave([[maybe_unused]] SanitizedStack& to, [[maybe_unused]] bool last) {
#if defined(TESSERA_ASAN_FIBERS)
    __sanitizer_start_switch_fiber(last ? nullptr : &saved_, to.bottom_, to.bytes_);
#endif
#if defined(TESSERA_TSAN_FIBERS)
    __tsan_switch_to_fiber(to.fiber_, 0);
#endif
  }
  // Right after a switch to this stack; `from` learns where it is.
  void Enter([[maybe_unused]] SanitizedStack& from) {
#if defined(TESSERA_ASAN_FIBERS)
    __sanitizer_finish_switch_fiber(saved_, &from.bottom_, &from.bytes_);
#endif
  }

 private:
#if defined(TESSERA_ASAN_FIBERS)
  void* saved_ = nullptr;
  const void* bottom_ = nullptr;
  size_t bytes_ = 0;
#endif
#if defined(TESSERA_TSAN_FIBERS)
  void* fiber_ = nullptr;
  bool owned_ = false;
#endif
};

// Memory with a page below it that nobody may touch: an overflow is a crash, not a corruption.
class Stack {
 public:
  Stack() : page_(static_cast<size_t>(sysconf(_SC_PAGESIZE))) {
    void* mapped = mmap(nullptr, page_ + kStackBytes, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_STACK, -1, 0);
    TESSERA_CHECK(mapped != MAP_FAILED);
    base_ = static_cast<char*>(mapped);
    TESSERA_CHECK(mprotect(base_, page_, PROT_NONE) == 0);
  }
  ~Stack() { munmap(base_, page_ + kStackBytes); }
  Stack(const Stack&) = delete;
  Stack& operator=(const Stack&) = delete;
  char* bottom() const { return base_ + page_; }

 private:
  const size_t page_;
  char* base_ = nullptr;
};

}  // namespace

struct Fiber::Contexts {
  explicit Contexts(std::function<void()> function) : body(std::move(function)) {}

  static void Begin(uint32_t high, uint32_t low);
  void Run();

  const std::function<void()> body;
  Stack stack;
  ucontext_t fiber{};
  ucontext_t resumer{};
  SanitizedStack fiber_stack;
  SanitizedStack resumer_stack;
  bool begun = false;
  bool finished = false;
};

// makecontext hands over integers only.
void Fiber::Contexts::Begin(uint32_t high, uint32_t low) {
  reinterpret_cast<Contexts*>((static_cast<uint64_t>(high) << 32) | low)->Run();
}

void Fiber::Contexts::Run() {
  fiber_stack.Enter(resumer_stack);
  body();
  finished = true;
  fiber_stack.Leave(resumer_stack, true);
  // The end of this function continues Resume (uc_link).
}

Fiber::Fiber(std::function<void()> body) : contexts_(std::make_unique<Contexts>(std::move(body))) {
  TESSERA_CHECK(getcontext(&contexts_->fiber) == 0);
  contexts_->fiber.uc_stack.ss_sp = contexts_->stack.bottom();
  contexts_->fiber.uc_stack.ss_size = kStackBytes;
  contexts_->fiber.uc_link = &contexts_->resumer;
  const auto address = reinterpret_cast<uint64_t>(contexts_.get());
  makecontext(&contexts_->fiber, reinterpret_cast<void (*)()>(&Contexts::Begin), 2,
              static_cast<uint32_t>(address >> 32), static_cast<uint32_t>(address));
  contexts_->fiber_stack.Describe(contexts_->stack.bottom(), kStackBytes);
}

Fiber::~Fiber() {
  TESSERA_CHECK(!contexts_->begun || contexts_->finished);
  contexts_->fiber_stack.Release();
}

void Fiber::Resume() {
  TESSERA_CHECK(!contexts_->finished);
  contexts_->begun = true;
  contexts_->resumer_stack.Describe(nullptr, 0);
  contexts_->resumer_stack.Leave(contexts_->fiber_stack, false);
  TESSERA_CHECK(swapcontext(&contexts_->resumer, &contexts_->fiber) == 0);
  contexts_->resumer_stack.Enter(contexts_->fiber_stack);
}

void Fiber::Pause() {
  contexts_->fiber_stack.Leave(contexts_->resumer_stack, false);
  TESSERA_CHECK(swapcontext(&contexts_->fiber, &contexts_->resumer) == 0);
  contexts_->fiber_stack.Enter(contexts_->resumer_stack);
}

}  // namespace tessera
