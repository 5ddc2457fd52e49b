// The stand-in for NCCL, for ranks of one process on emulated GPUs.
#ifndef TESSERA_PARALLEL_NCCL_FAKE_FAKE_NCCL_H_
#define TESSERA_PARALLEL_NCCL_FAKE_FAKE_NCCL_H_

#include "parallel/nccl/nccl_library.h"

namespace tessera::cuda {

NcclLibrary FakeNccl();

}  // namespace tessera::cuda

#endif  // TESSERA_PARALLEL_NCCL_FAKE_FAKE_NCCL_H_
