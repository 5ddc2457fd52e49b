// Where the loads and stores of kernels arrive: as calls of -fsanitize=thread, of Load16 and its
// like, and of memcpy. ThreadSanitizer's own library is not linked; these functions take the names.
#include <cstring>

#include "kernels/cuda/emulation/global_memory.h"
#include "kernels/cuda/emulation/mbarrier.h"
#include "kernels/cuda/emulation/report.h"
#include "kernels/cuda/emulation/scheduler.h"
#include "kernels/cuda/emulation/shared_memory.h"

extern "C" const char __executable_start;
extern "C" const char _end;

namespace tessera::simt::emulation {

constinit thread_local Thread* current_thread = nullptr;

namespace {

struct MemoryAccess {
  const void* pointer;
  size_t bytes;
  bool write;
  bool aligned;  // must be, by its size
};

void CheckAddress(Thread* t, const MemoryAccess& a) {
  const auto address = reinterpret_cast<uintptr_t>(a.pointer);
  Machine& m = M();
  if (IsShared(address)) {
    size_t offset;
    Block* block = SharedBlockAt(address, &offset);
    CheckNoBarrier(*block, offset, a.bytes, a.write);
    CheckShared(*block, {offset, a.bytes, a.write, Now(t), t->clock});
    if (a.write) m.idle = 0;
    return;
  }
  if (IsGlobal(address)) {
    CheckGlobal(t, {a.pointer, a.bytes, a.write});
    if (a.write) m.idle = 0;
    return;
  }
  // Constants of the program, and the launch's parameters.
  if (!a.write && address >= reinterpret_cast<uintptr_t>(&__executable_start) &&
      address < reinterpret_cast<uintptr_t>(&_end)) {
    return;
  }
  const Body& body = GridOf(t).body;
  if (!a.write && address - reinterpret_cast<uintptr_t>(body.parameters) < body.bytes) return;
  Fail("%s of %zu bytes of host memory (%p)", Verb(a.write), a.bytes, a.pointer);
}

// Of memory that is not the thread's stack, or that is not aligned.
__attribute__((noinline)) void CheckThoroughly(Thread* t, const MemoryAccess& a, const void* pc) {
  Machine& m = M();
  m.pc = pc;
  m.address = a.pointer;
  if (a.aligned && reinterpret_cast<uintptr_t>(a.pointer) % a.bytes != 0) {
    Fail("%s of %zu bytes at %p, which is not aligned", Verb(a.write), a.bytes, a.pointer);
  }
  ++m.statistics.accesses;
  CheckAddress(t, a);
  if (m.options.preempt_every > 0 && --m.preempt_in <= 0) {
    m.preempt_in =
        1 + static_cast<int>(m.random.Below(2 * static_cast<uint32_t>(m.options.preempt_every)));
    YieldTurn();
  }
}

// Most accesses are to what a GPU would keep in registers: the thread's own arrays.
inline void Check(const MemoryAccess& a, const void* pc) {
  Thread* t = current_thread;
  if (t == nullptr) return;
  const bool aligned = !a.aligned || reinterpret_cast<uintptr_t>(a.pointer) % a.bytes == 0;
  if (aligned && OnOwnStack(*t, a.pointer)) return;
  CheckThoroughly(t, a, pc);
}

}  // namespace

const ThreadView& Self() { return *current_thread->view; }

void LoadVector(const void* from, void* to, size_t bytes) {
  Check({from, bytes, false, true}, __builtin_return_address(0));
  std::memcpy(to, from, bytes);
}

void StoreVector(void* to, const void* from, size_t bytes) {
  // Checked before it is stored: the check may let others run.
  Check({to, bytes, true, true}, __builtin_return_address(0));
  std::memcpy(to, from, bytes);
}

void* SharedBase(size_t bytes, size_t alignment) {
  const Block& b = *Current()->block;
  M().pc = __builtin_return_address(0);
  if (bytes > b.shared_end - kSharedOrigin) {
    Fail("the kernel uses %zu bytes of shared memory, the launch gives %zu", bytes,
         b.shared_end - kSharedOrigin);
  }
  if (alignment > kSharedOrigin)
    Fail("shared memory is aligned to %zu bytes at most", kSharedOrigin);
  return b.shared + kSharedOrigin;
}

void Trap(const char* what) {
  M().pc = __builtin_return_address(0);
  Fail("%s", what);
}

}  // namespace tessera::simt::emulation

using tessera::simt::emulation::Check;

#define TESSERA_SIMT_HOOKS(n)                                                               \
  void __tsan_read##n(void* p) { Check({p, n, false, true}, __builtin_return_address(0)); } \
  void __tsan_write##n(void* p) { Check({p, n, true, true}, __builtin_return_address(0)); } \
  void __tsan_read_write##n(void* p) {                                                      \
    Check({p, n, false, true}, __builtin_return_address(0));                                \
    Check({p, n, true, true}, __builtin_return_address(0));                                 \
  }                                                                                         \
  void __tsan_unaligned_read##n(void* p) {                                                  \
    Check({p, n, false, false}, __builtin_return_address(0));                               \
  }                                                                                         \
  void __tsan_unaligned_write##n(void* p) {                                                 \
    Check({p, n, true, false}, __builtin_return_address(0));                                \
  }                                                                                         \
  void __tsan_unaligned_read_write##n(void* p) {                                            \
    Check({p, n, false, false}, __builtin_return_address(0));                               \
    Check({p, n, true, false}, __builtin_return_address(0));                                \
  }                                                                                         \
  void __tsan_volatile_read##n(void* p) {                                                   \
    Check({p, n, false, true}, __builtin_return_address(0));                                \
  }                                                                                         \
  void __tsan_volatile_write##n(void* p) { Check({p, n, true, true}, __builtin_return_address(0)); }

extern "C" {
TESSERA_SIMT_HOOKS(1)
TESSERA_SIMT_HOOKS(2)
TESSERA_SIMT_HOOKS(4)
TESSERA_SIMT_HOOKS(8)
TESSERA_SIMT_HOOKS(16)
void __tsan_read_range(void* p, size_t n) {
  if (n > 0) Check({p, n, false, false}, __builtin_return_address(0));
}
void __tsan_write_range(void* p, size_t n) {
  if (n > 0) Check({p, n, true, false}, __builtin_return_address(0));
}
void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
void __tsan_vptr_update(void**, void*) {}
void __tsan_vptr_read(void**) {}

void* tessera_simt_memcpy(void* to, const void* from, size_t n) {
  if (n > 0) {
    Check({from, n, false, false}, __builtin_return_address(0));
    Check({to, n, true, false}, __builtin_return_address(0));
  }
  return std::memcpy(to, from, n);
}
void* tessera_simt_memmove(void* to, const void* from, size_t n) {
  if (n > 0) {
    Check({from, n, false, false}, __builtin_return_address(0));
    Check({to, n, true, false}, __builtin_return_address(0));
  }
  return std::memmove(to, from, n);
}
void* tessera_simt_memset(void* to, int value, size_t n) {
  if (n > 0) Check({to, n, true, false}, __builtin_return_address(0));
  return std::memset(to, value, n);
}
}
