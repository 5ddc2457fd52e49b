// What TMA knows about a matrix; for kernels and for the host code that has it encoded.
#ifndef TESSERA_KERNELS_CUDA_SIMT_TENSOR_MAP_H_
#define TESSERA_KERNELS_CUDA_SIMT_TENSOR_MAP_H_

namespace tessera::simt {

// The bits of a CUtensorMap, which only the driver (kernels/cuda/tensor_map.h) and TMA understand.
// On emulated GPUs they are plain fields.
struct alignas(128) TensorMap {
  unsigned char opaque[128];
};

}  // namespace tessera::simt

#endif  // TESSERA_KERNELS_CUDA_SIMT_TENSOR_MAP_H_
