#include "kernels/cuda/emulation/fiber.h"

#include <sys/mman.h>
#include <unistd.h>

#include <boost/context/detail/fcontext.hpp>
#include <vector>

#include "kernels/core/status_macros.h"

namespace tessera::simt::emulation {
namespace {

using boost::context::detail::fcontext_t;
using boost::context::detail::jump_fcontext;
using boost::context::detail::make_fcontext;
using boost::context::detail::transfer_t;

// What a switch hands over: where the context that was left is to be noted.
struct Departure {
  void** save;
};

void Arrived(transfer_t from) { *static_cast<Departure*>(from.data)->save = from.fctx; }

thread_local void (*t_begin)() = nullptr;

void Begin(transfer_t from) {
  Arrived(from);
  t_begin();
}

}  // namespace

unsigned char* FiberStackTop(size_t index) {
  static std::vector<unsigned char*> stacks;
  if (stacks.size() <= index) stacks.resize(index + 1, nullptr);
  if (stacks[index] == nullptr) {
    const auto page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
    void* mapped = mmap(nullptr, page + kFiberStackBytes, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    TESSERA_CHECK(mapped != MAP_FAILED);
    TESSERA_CHECK(mprotect(mapped, page, PROT_NONE) == 0);
    stacks[index] = static_cast<unsigned char*>(mapped) + page + kFiberStackBytes;
  }
  return stacks[index];
}

void* NewContext(unsigned char* top, void (*main)()) {
  t_begin = main;
  return make_fcontext(top, kFiberStackBytes, &Begin);
}

void SwitchContext(void** save, void* load) {
  Departure departure{save};
  Arrived(jump_fcontext(load, &departure));
}

}  // namespace tessera::simt::emulation
