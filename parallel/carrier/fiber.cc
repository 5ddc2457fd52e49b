#include "parallel/carrier/fiber.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
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

// Saves the registers that a call must keep on the running stack, stores where they are in *save,
// and goes on with the ones that lie at `load`. Written out because the C library's swapcontext
// asks the kernel for the signal mask, twice per switch.
extern "C" void TesseraSwitchStack(void** save, void* load);
// Where a new fiber begins: calls TesseraBeginFiber with the pointer that the first frame holds.
extern "C" void TesseraStartFiber();

#if defined(__x86_64__)
asm(R"(
.text
.p2align 4
.globl TesseraSwitchStack
.type TesseraSwitchStack, @function
TesseraSwitchStack:
  .cfi_startproc
  endbr64
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  subq $8, %rsp
  stmxcsr (%rsp)
  fnstcw 4(%rsp)
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  ldmxcsr (%rsp)
  fldcw 4(%rsp)
  addq $8, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
  .cfi_endproc
.size TesseraSwitchStack, .-TesseraSwitchStack
.p2align 4
.globl TesseraStartFiber
.type TesseraStartFiber, @function
TesseraStartFiber:
  .cfi_startproc
  .cfi_undefined rip
  endbr64
  movq %rbx, %rdi
  call TesseraBeginFiber
  ud2
  .cfi_endproc
.size TesseraStartFiber, .-TesseraStartFiber
)");

namespace {

// What TesseraSwitchStack finds on the stack of a fiber that has not begun.
void* FirstFrame(char* top, void* argument) {
  auto** frame = reinterpret_cast<void**>(top);
  frame -= 2;  // nobody's, and a multiple of 16 bytes: the start makes a call from here
  *--frame = reinterpret_cast<void*>(&TesseraStartFiber);
  *--frame = nullptr;   // rbp
  *--frame = argument;  // rbx
  for (int r = 12; r <= 15; ++r) *--frame = nullptr;
  uint32_t control[2] = {};  // of the floating-point units: as they are now
  asm volatile("stmxcsr %0\n\tfnstcw %1" : "=m"(control[0]), "=m"(control[1]));
  --frame;
  std::memcpy(frame, control, sizeof(control));
  return frame;
}

}  // namespace

#elif defined(__aarch64__)
asm(R"(
.text
.p2align 4
.globl TesseraSwitchStack
.type TesseraSwitchStack, %function
TesseraSwitchStack:
  .cfi_startproc
  sub sp, sp, #176
  stp x19, x20, [sp, #0]
  stp x21, x22, [sp, #16]
  stp x23, x24, [sp, #32]
  stp x25, x26, [sp, #48]
  stp x27, x28, [sp, #64]
  stp x29, x30, [sp, #80]
  stp d8, d9, [sp, #96]
  stp d10, d11, [sp, #112]
  stp d12, d13, [sp, #128]
  stp d14, d15, [sp, #144]
  mrs x9, fpcr
  str x9, [sp, #160]
  mov x9, sp
  str x9, [x0]
  mov sp, x1
  ldp x19, x20, [sp, #0]
  ldp x21, x22, [sp, #16]
  ldp x23, x24, [sp, #32]
  ldp x25, x26, [sp, #48]
  ldp x27, x28, [sp, #64]
  ldp x29, x30, [sp, #80]
  ldp d8, d9, [sp, #96]
  ldp d10, d11, [sp, #112]
  ldp d12, d13, [sp, #128]
  ldp d14, d15, [sp, #144]
  ldr x9, [sp, #160]
  msr fpcr, x9
  add sp, sp, #176
  ret
  .cfi_endproc
.size TesseraSwitchStack, .-TesseraSwitchStack
.p2align 4
.globl TesseraStartFiber
.type TesseraStartFiber, %function
TesseraStartFiber:
  .cfi_startproc
  .cfi_undefined x30
  mov x0, x19
  bl TesseraBeginFiber
  brk #1
  .cfi_endproc
.size TesseraStartFiber, .-TesseraStartFiber
)");

namespace {

// What TesseraSwitchStack finds on the stack of a fiber that has not begun.
void* FirstFrame(char* top, void* argument) {
  constexpr size_t kFrameBytes = 176;
  constexpr size_t kArgument = 0;  // x19
  constexpr size_t kReturn = 11;   // x30
  constexpr size_t kControl = 20;  // of the floating-point unit: as it is now
  auto** frame = reinterpret_cast<void**>(top - kFrameBytes);
  std::memset(frame, 0, kFrameBytes);
  frame[kArgument] = argument;
  frame[kReturn] = reinterpret_cast<void*>(&TesseraStartFiber);
  uint64_t control = 0;
  asm volatile("mrs %0, fpcr" : "=r"(control));
  frame[kControl] = reinterpret_cast<void*>(control);
  return frame;
}

}  // namespace

#else
#error "fibers know how to switch stacks on x86-64 and aarch64 only"
#endif

struct Fiber::Contexts {
  explicit Contexts(std::function<void()> function)
      : body(std::move(function)), fiber(FirstFrame(stack.top(), this)) {}

  void Run();

  const std::function<void()> body;
  Stack stack;
  void* fiber;  // its saved registers, while it does not run
  void* resumer = nullptr;
  SanitizedStack fiber_stack;
  SanitizedStack resumer_stack;
  bool begun = false;
  bool finished = false;
};

void Fiber::Contexts::Run() {
  fiber_stack.Enter(resumer_stack);
  body();
  finished = true;
  fiber_stack.Leave(resumer_stack, true);
  TesseraSwitchStack(&fiber, resumer);
}

void Fiber::Begin(Contexts* contexts) { contexts->Run(); }

extern "C" [[noreturn]] void TesseraBeginFiber(void* contexts);
void TesseraBeginFiber(void* contexts) {
  Fiber::Begin(static_cast<Fiber::Contexts*>(contexts));
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
  contexts_->resumer_stack.Leave(contexts_->fiber_stack, false);
  TesseraSwitchStack(&contexts_->resumer, contexts_->fiber);
  contexts_->resumer_stack.Enter(contexts_->fiber_stack);
}

void Fiber::Pause() {
  contexts_->fiber_stack.Leave(contexts_->resumer_stack, false);
  TesseraSwitchStack(&contexts_->fiber, contexts_->resumer);
  contexts_->fiber_stack.Enter(contexts_->resumer_stack);
}

}  // namespace tessera
