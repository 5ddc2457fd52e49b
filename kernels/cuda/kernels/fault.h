// What kernels report about impossible data from routers and peers: a word in device memory that
// the host reads with the results of a step. The first report stays.
#ifndef TESSERA_KERNELS_CUDA_KERNELS_FAULT_H_
#define TESSERA_KERNELS_CUDA_KERNELS_FAULT_H_

#include <cstdint>

namespace tessera::cuda {

enum class FaultKind : int32_t {
  kNone,
  kRepeatedExpert,  // a token chose one expert twice
  kUnknownExpert,   // values: the number of experts
  kBadRowCount,     // values: source rank, rows
  kBadRow,          // values: source rank, row of its chunk
  kBadReturn,       // values: rank, rows returned, rows sent
};

struct Fault {
  uint32_t reports;  // 0: none
  FaultKind kind;
  int32_t values[3];
};

}  // namespace tessera::cuda

#endif  // TESSERA_KERNELS_CUDA_KERNELS_FAULT_H_
