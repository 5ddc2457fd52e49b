#include "parallel/carrier/fiber.h"

#include <sys/mman.h>
#include <unistd.h>

#include <boost/context/detail/fcontext.hpp>
#include <cstddef>
#include <cstdlib>
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
  char* top() const { return bottom() + kStackBytes; }

 private:
  const size_t page_;
  char* base_ = nullptr;
};

}  // namespace

// Not boost::context::fiber: it switches stacks inside its constructor and behind the end of its
// function too, where nobody can tell the sanitizers.
using boost::context::detail::fcontext_t;
using boost::context::detail::jump_fcontext;
using boost::context::detail::make_fcontext;
using boost::context::detail::transfer_t;

struct Fiber::Contexts {
  explicit Contexts(std::function<void()> function)
      : body(std::move(function)), fiber(make_fcontext(stack.top(), kStackBytes, &Begin)) {}

  // Where the fiber begins: `from` is where it was resumed.
  [[noreturn]] static void Begin(transfer_t from);
  // One switch, with what the sanitizers need to know about it.
  void ToFiber();
  void ToResumer(bool last);

  const std::function<void()> body;
  Stack stack;
  fcontext_t fiber;  // where to go on, while it does not run
  fcontext_t resumer = nullptr;
  SanitizedStack fiber_stack;
  SanitizedStack resumer_stack;
  bool begun = false;
  bool finished = false;
};

void Fiber::Contexts::ToFiber() {
  resumer_stack.Leave(fiber_stack, false);
  fiber = jump_fcontext(fiber, this).fctx;
  resumer_stack.Enter(fiber_stack);
}

void Fiber::Contexts::ToResumer(bool last) {
  fiber_stack.Leave(resumer_stack, last);
  resumer = jump_fcontext(resumer, nullptr).fctx;
  fiber_stack.Enter(resumer_stack);
}

void Fiber::Contexts::Begin(transfer_t from) {
  auto& contexts = *static_cast<Contexts*>(from.data);
  contexts.resumer = from.fctx;
  contexts.fiber_stack.Enter(contexts.resumer_stack);
  contexts.body();
  contexts.finished = true;
  contexts.ToResumer(true);
  std::abort();  // a finished fiber is never resumed
}

Fiber::Fiber(std::function<void()> body) : contexts_(std::make_unique<Contexts>(std::move(body))) {
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
  contexts_->ToFiber();
}

void Fiber::Pause() { contexts_->ToResumer(false); }

}  // namespace tessera
