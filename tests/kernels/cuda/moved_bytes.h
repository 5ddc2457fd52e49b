// Bytes that kernels have moved to and from the memory of emulated GPUs since the program began.
#ifndef TESSERA_TESTS_KERNELS_CUDA_MOVED_BYTES_H_
#define TESSERA_TESTS_KERNELS_CUDA_MOVED_BYTES_H_

#include <cstdint>

#include "kernels/cuda/emulation/emulator.h"

namespace tessera::test {

inline uint64_t MovedBytes() {
  const simt::emulation::Statistics& counted = simt::emulation::Counters();
  return counted.global_bytes_read + counted.global_bytes_written;
}

}  // namespace tessera::test

#endif  // TESSERA_TESTS_KERNELS_CUDA_MOVED_BYTES_H_
