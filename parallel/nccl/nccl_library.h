// NCCL as a table of functions: loaded at run time, or the stand-in for emulated GPUs.
#ifndef TESSERA_PARALLEL_NCCL_NCCL_LIBRARY_H_
#define TESSERA_PARALLEL_NCCL_NCCL_LIBRARY_H_

#include <nccl.h>

#include <string>

#include "absl/status/statusor.h"

namespace tessera::cuda {

struct NcclLibrary {
  int version = 0;  // 10000 * major + 100 * minor + patch
  decltype(&::ncclGetErrorString) get_error_string = nullptr;
  decltype(&::ncclGetLastError) get_last_error = nullptr;
  decltype(&::ncclGetUniqueId) get_unique_id = nullptr;
  decltype(&::ncclCommInitRankConfig) comm_init_rank_config = nullptr;
  decltype(&::ncclCommGetAsyncError) comm_get_async_error = nullptr;
  decltype(&::ncclCommFinalize) comm_finalize = nullptr;
  decltype(&::ncclCommDestroy) comm_destroy = nullptr;
  decltype(&::ncclCommAbort) comm_abort = nullptr;
  decltype(&::ncclGroupStart) group_start = nullptr;
  decltype(&::ncclGroupEnd) group_end = nullptr;
  decltype(&::ncclSend) send = nullptr;
  decltype(&::ncclRecv) recv = nullptr;
  decltype(&::ncclAllGather) all_gather = nullptr;
  decltype(&::ncclBroadcast) broadcast = nullptr;
};

// "2.28.9".
std::string NcclVersionName(int version);

// Opens the shared library `file` (a name that the system looks for, or a path), which stays open.
// FAILED_PRECONDITION, with a sentence that says what is missing and what to install, when there is
// none or it is too old. Any thread.
absl::StatusOr<NcclLibrary> LoadNccl(const std::string& file = "libnccl.so.2");

}  // namespace tessera::cuda

#endif  // TESSERA_PARALLEL_NCCL_NCCL_LIBRARY_H_
