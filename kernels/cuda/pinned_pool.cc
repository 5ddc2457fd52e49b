#include "kernels/cuda/pinned_pool.h"

#include <algorithm>
#include <bit>

namespace tessera::cuda {
namespace {

// Results of a step have few sizes; powers of two let them share.
size_t SizeClass(size_t bytes) { return std::bit_ceil(std::max<size_t>(bytes, 64)); }

}  // namespace

PinnedPool::~PinnedPool() {
  for (const auto& [size, pieces] : free_) {
    for (char* memory : pieces) cudaFreeHost(memory);
  }
}

cudaError_t PinnedPool::Take(size_t bytes, char** memory) {
  std::vector<char*>& pieces = free_[SizeClass(bytes)];
  if (!pieces.empty()) {
    *memory = pieces.back();
    pieces.pop_back();
    return cudaSuccess;
  }
  void* allocated = nullptr;
  const cudaError_t error = cudaMallocHost(&allocated, SizeClass(bytes));
  *memory = static_cast<char*>(allocated);
  return error;
}

void PinnedPool::GiveBack(char* memory, size_t bytes) { free_[SizeClass(bytes)].push_back(memory); }

}  // namespace tessera::cuda
