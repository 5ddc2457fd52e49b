// Calls, groups of them, and how they get into streams.
#include <utility>

#include "parallel/nccl/fake/cliques.h"

namespace tessera::simt::fake {
namespace {

struct Group {
  struct Member {
    ncclComm_t comm;
    std::shared_ptr<Launch> launch;
  };
  int depth = 0;
  ncclResult_t result = ncclSuccess;  // of the first call that failed
  std::vector<Member> members;
};
thread_local Group t_group;

bool IsInvalid(const Call& call, const ncclComm& comm) {
  return call.peer < 0 || call.peer >= static_cast<int>(comm.clique->ranks.size()) ||
         (!call.collective() && call.peer == comm.rank);
}

// Polls until a call that does not block has ended: some calls end late, some at once.
int Polls(ncclComm* comm) {
  const uint64_t mixed =
      (emulation::GetOptions().seed + static_cast<uint64_t>(comm->rank)) * 31 + comm->calls++ * 7;
  return static_cast<int>(mixed % 4);
}

// Among the rank's collectives, or among its sends to (receives from) the peer.
uint64_t NextNumber(ncclComm* comm, const Call& call) {
  if (call.collective()) return comm->collectives++;
  return (call.kind == Kind::kSend ? comm->sends : comm->receives)[call.peer]++;
}

cudaError_t Append(ncclComm* comm, const std::shared_ptr<Launch>& launch)
    ABSL_EXCLUSIVE_LOCKS_REQUIRED(R().mutex);

// The same calls once more, as a graph makes them.
cudaError_t Repeat(ncclComm* comm, const Launch& captured, CUstream_st* stream)
    ABSL_EXCLUSIVE_LOCKS_REQUIRED(R().mutex) {
  auto launch = std::make_shared<Launch>();
  launch->stream = stream;
  launch->calls = captured.calls;
  for (Call& call : launch->calls) call.number = NextNumber(comm, call);
  return Append(comm, launch);
}

cudaError_t Append(ncclComm* comm, const std::shared_ptr<Launch>& launch) {
  // Keeps the communicator, too.
  const std::shared_ptr<Clique> clique = comm->clique->shared_from_this();
  const bool captured = launch->stream->capture != nullptr;
  if (!captured) comm->open.push_back(launch);
  const cudaError_t error = EnqueueLocked(
      launch->stream,
      {.make = [clique, comm, launch]() -> Run {
         return [clique, comm, launch](const StreamPosition& at, const Ended& ended) {
           ended(Execute(comm, launch, at));
         };
       },
       // Asked with the runtime's mutex held.
       .ready = [clique, comm, launch]()
                    ABSL_NO_THREAD_SAFETY_ANALYSIS { return IsReady(comm, launch.get()); },
       .again = [clique, comm, launch](CUstream_st* at)
                    ABSL_NO_THREAD_SAFETY_ANALYSIS { return Repeat(comm, *launch, at); }});
  if (captured) return error;
  if (error == cudaSuccess) {
    launch->sequence = launch->stream->enqueued;
  } else {
    comm->open.pop_back();
  }
  return error;
}

Launch* LaunchOf(ncclComm_t comm, cudaStream_t stream) {
  for (const Group::Member& member : t_group.members) {
    if (member.comm == comm && member.launch->stream == stream) return member.launch.get();
  }
  auto launch = std::make_shared<Launch>();
  launch->stream = stream;
  t_group.members.push_back({comm, launch});
  return launch.get();
}

ncclResult_t Check(ncclComm_t comm, const Call& call, cudaStream_t stream)
    ABSL_EXCLUSIVE_LOCKS_REQUIRED(R().mutex) {
  if (!IsAlive(comm)) return Refuse(nullptr, ncclInvalidArgument, "no such communicator");
  if (IsInProgress(*comm)) return Refuse(comm, ncclInvalidUsage, "a call is still in progress");
  if (IsInvalid(call, *comm)) return Refuse(comm, ncclInvalidArgument, "no such peer");
  if (stream == nullptr || stream->device != comm->device) {
    return Refuse(comm, ncclInvalidArgument, "a stream that is not of the communicator's GPU");
  }
  return ncclSuccess;
}

ncclResult_t Add(ncclComm_t comm, Call call, cudaStream_t stream) {
  ncclGroupStart();
  {
    MutexLock lock(&R().mutex);
    const ncclResult_t result = Check(comm, call, stream);
    if (result != ncclSuccess) {
      if (t_group.result == ncclSuccess) t_group.result = result;
    } else {
      call.number = NextNumber(comm, call);
      LaunchOf(comm, stream)->calls.push_back(call);
    }
  }
  return ncclGroupEnd();
}

}  // namespace

cudaError_t Finish(ncclComm_t comm) {
  cudaError_t error = cudaSuccess;
  for (const std::shared_ptr<Launch>& launch : comm->unfinished) {
    if (error == cudaSuccess) error = Append(comm, launch);
  }
  comm->unfinished.clear();
  return error;
}

}  // namespace tessera::simt::fake

using namespace tessera::simt::fake;  // NOLINT: these functions are in no namespace by contract

TESSERA_NCCL_BEGIN
ncclResult_t ncclGroupStart() {
  ++t_group.depth;
  return ncclSuccess;
}

ncclResult_t ncclGroupEnd() {
  if (t_group.depth == 0) return ncclInvalidUsage;
  if (--t_group.depth > 0) return t_group.result;
  const Group group = std::exchange(t_group, Group());
  if (group.result != ncclSuccess) return group.result;
  tessera::MutexLock lock(&R().mutex);
  ncclResult_t result = ncclSuccess;
  for (const Group::Member& member : group.members) {
    if (!IsAlive(member.comm)) return ncclInvalidArgument;
    member.comm->unfinished.push_back(member.launch);
    member.comm->polls_left = Polls(member.comm);
    if (!member.comm->blocking) {
      result = ncclInProgress;
    } else if (Finish(member.comm) != cudaSuccess) {
      return Refuse(member.comm, ncclUnhandledCudaError, "the GPU has failed");
    }
  }
  return result;
}

ncclResult_t ncclSend(const void* data, size_t count, ncclDataType_t type, int peer,
                      ncclComm_t comm, cudaStream_t stream) {
  return Add(comm, {.kind = Kind::kSend, .in = data, .count = count, .type = type, .peer = peer},
             stream);
}

ncclResult_t ncclRecv(void* data, size_t count, ncclDataType_t type, int peer, ncclComm_t comm,
                      cudaStream_t stream) {
  return Add(comm, {.kind = Kind::kRecv, .out = data, .count = count, .type = type, .peer = peer},
             stream);
}

ncclResult_t ncclAllGather(const void* in, void* out, size_t count, ncclDataType_t type,
                           ncclComm_t comm, cudaStream_t stream) {
  return Add(comm, {.kind = Kind::kAllGather, .in = in, .out = out, .count = count, .type = type},
             stream);
}

ncclResult_t ncclBroadcast(const void* in, void* out, size_t count, ncclDataType_t type, int root,
                           ncclComm_t comm, cudaStream_t stream) {
  return Add(
      comm,
      {.kind = Kind::kBroadcast, .in = in, .out = out, .count = count, .type = type, .peer = root},
      stream);
}

ncclResult_t ncclAllReduce(const void* in, void* out, size_t count, ncclDataType_t type,
                           ncclRedOp_t operation, ncclComm_t comm, cudaStream_t stream) {
  if (operation != ncclSum) return ncclInvalidArgument;
  return Add(comm, {.kind = Kind::kAllReduce, .in = in, .out = out, .count = count, .type = type},
             stream);
}
TESSERA_NCCL_END
