#include "parallel/nccl/fake/fake_nccl.h"

namespace tessera::cuda {

NcclLibrary FakeNccl() {
  NcclLibrary nccl{.get_error_string = ncclGetErrorString,
                   .get_last_error = ncclGetLastError,
                   .get_unique_id = ncclGetUniqueId,
                   .comm_init_rank_config = ncclCommInitRankConfig,
                   .comm_get_async_error = ncclCommGetAsyncError,
                   .comm_finalize = ncclCommFinalize,
                   .comm_destroy = ncclCommDestroy,
                   .comm_abort = ncclCommAbort,
                   .group_start = ncclGroupStart,
                   .group_end = ncclGroupEnd,
                   .send = ncclSend,
                   .recv = ncclRecv,
                   .all_gather = ncclAllGather,
                   .broadcast = ncclBroadcast};
  ncclGetVersion(&nccl.version);
  return nccl;
}

}  // namespace tessera::cuda
