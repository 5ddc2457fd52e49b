// How a kernel reports impossible data.
#ifndef TESSERA_KERNELS_CUDA_KERNELS_REPORT_FAULT_H_
#define TESSERA_KERNELS_CUDA_KERNELS_REPORT_FAULT_H_

#include "kernels/cuda/kernels/fault.h"
#include "kernels/cuda/simt/ptx.h"

namespace tessera::cuda {

// What the values mean: FaultKind.
SIMT_DEVICE void Report(Fault* fault, FaultKind kind, int32_t a = 0, int32_t b = 0, int32_t c = 0) {
  if (simt::ptx::AtomicAddRelaxed(&fault->reports, 1U) != 0) return;
  fault->kind = kind;
  fault->values[0] = a;
  fault->values[1] = b;
  fault->values[2] = c;
}

}  // namespace tessera::cuda

#endif  // TESSERA_KERNELS_CUDA_KERNELS_REPORT_FAULT_H_
