// What every operation of the CPU backend computes with.
#ifndef TESSERA_KERNELS_CPU_CONTEXT_H_
#define TESSERA_KERNELS_CPU_CONTEXT_H_

#include <cstdint>
#include <vector>

#include "absl/functional/function_ref.h"
#include "kernels/core/thread_pool.h"
#include "kernels/cpu/isa/kernels.h"

namespace tessera::cpu {

struct Context {
  const Kernels& kernels;
  ThreadPool& pool;

  // task(i) for each i in [0, tasks): on all threads when the whole costs enough, else right here.
  // `cost` is an estimate in nanoseconds of one thread; forking pays above some microseconds.
  void For(int64_t tasks, double cost, absl::FunctionRef<void(int64_t)> task) const {
    if (cost < kForkCost) {
      for (int64_t i = 0; i < tasks; ++i) task(i);
    } else {
      pool.ParallelFor(tasks, task);
    }
  }

 private:
  static constexpr double kForkCost = 10'000;
};

// Memory of the calling thread, one piece per use, aligned to cache lines.
enum class ScratchUse : uint8_t { kTask, kRoundedRows, kAttentionStates, kUnpacked };

// At least `size` elements that belong to the calling thread until its next call with the same
// element type and use; not cleared.
template <typename Element = float, ScratchUse = ScratchUse::kTask>
Element* Scratch(int64_t size) {
  struct alignas(64) Line {
    char bytes[64];
  };
  thread_local std::vector<Line> scratch;
  const size_t lines = (size * sizeof(Element) + sizeof(Line) - 1) / sizeof(Line);
  if (scratch.size() < lines) scratch.resize(lines);
  return reinterpret_cast<Element*>(scratch.data());
}

}  // namespace tessera::cpu

#endif  // TESSERA_KERNELS_CPU_CONTEXT_H_
