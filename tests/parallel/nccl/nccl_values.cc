// Compiled against our declarations of NCCL and, where it is installed, against NVIDIA's header.
#include <nccl.h>

#include <cstddef>

static_assert(ncclSuccess == 0 && ncclUnhandledCudaError == 1 && ncclSystemError == 2);
static_assert(ncclInternalError == 3 && ncclInvalidArgument == 4 && ncclInvalidUsage == 5);
static_assert(ncclRemoteError == 6 && ncclInProgress == 7);
static_assert(ncclSum == 0);
static_assert(ncclInt8 == 0 && ncclInt32 == 2 && ncclFloat32 == 7 && ncclBfloat16 == 9);
static_assert(sizeof(ncclResult_t) == 4 && sizeof(ncclRedOp_t) == 4);
static_assert(sizeof(ncclDataType_t) == 4 && sizeof(ncclUniqueId) == 128);
// The beginning of the configuration, which is all that we fill in.
static_assert(offsetof(ncclConfig_t, size) == 0 && offsetof(ncclConfig_t, magic) == 8);
static_assert(offsetof(ncclConfig_t, version) == 12 && offsetof(ncclConfig_t, blocking) == 16);
