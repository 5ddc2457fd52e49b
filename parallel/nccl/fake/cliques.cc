#include "parallel/nccl/fake/cliques.h"

#include <cstdio>
#include <cstring>
#include <map>
#include <utility>

namespace tessera::simt::fake {
namespace {

constexpr int kVersion = 22809;  // of the API that is imitated

struct Cliques {
  std::map<std::string, std::shared_ptr<Clique>> by_id;
  std::map<ncclComm_t, std::shared_ptr<Clique>> alive;
  int ids = 0;
};
Cliques& C() ABSL_EXCLUSIVE_LOCKS_REQUIRED(R().mutex) {
  static Cliques cliques;
  return cliques;
}

thread_local std::string t_last_error;

void Forget(ncclComm_t comm) ABSL_EXCLUSIVE_LOCKS_REQUIRED(R().mutex) {
  comm->aborted = true;
  comm->unfinished.clear();
  C().alive.erase(comm);  // may be the end of it
  R().changed.SignalAll();
}

bool SharesGpu(const Clique& clique, int device) {
  for (const auto& other : clique.ranks) {
    if (other != nullptr && other->device == device) return true;
  }
  return false;
}

}  // namespace

bool IsAlive(ncclComm_t comm) { return C().alive.contains(comm); }

bool IsInProgress(const ncclComm& comm) {
  return comm.clique->joined < static_cast<int>(comm.clique->ranks.size()) ||
         !comm.unfinished.empty();
}

ncclResult_t Refuse(ncclComm_t comm, ncclResult_t result, std::string why) {
  t_last_error = std::move(why);
  if (IsAlive(comm)) comm->last_error = t_last_error;
  return result;
}

}  // namespace tessera::simt::fake

using namespace tessera::simt::fake;  // NOLINT: these functions are in no namespace by contract

TESSERA_NCCL_BEGIN
ncclResult_t ncclGetVersion(int* version) {
  *version = kVersion;
  return ncclSuccess;
}

const char* ncclGetErrorString(ncclResult_t result) {
  switch (result) {
    case ncclSuccess:
      return "no error";
    case ncclUnhandledCudaError:
      return "unhandled cuda error";
    case ncclInvalidArgument:
      return "invalid argument";
    case ncclInvalidUsage:
      return "invalid usage";
    case ncclInProgress:
      return "NCCL operation in progress";
    default:
      return "unknown result code";
  }
}

const char* ncclGetLastError(ncclComm_t comm) {
  tessera::MutexLock lock(&R().mutex);
  if (IsAlive(comm)) t_last_error = comm->last_error;
  return t_last_error.c_str();
}

ncclResult_t ncclGetUniqueId(ncclUniqueId* id) {
  tessera::MutexLock lock(&R().mutex);
  std::memset(id, 0, sizeof(*id));
  std::snprintf(id->internal, sizeof(id->internal), "emulated clique %d", C().ids++);
  return ncclSuccess;
}

ncclResult_t ncclCommInitRankConfig(ncclComm_t* comm, int size, ncclUniqueId id, int rank,
                                    ncclConfig_t* config) {
  tessera::MutexLock lock(&R().mutex);
  *comm = nullptr;
  if (size < 1 || rank < 0 || rank >= size) {
    return Refuse(nullptr, ncclInvalidArgument, "a rank outside of its clique");
  }
  const std::string key(id.internal, strnlen(id.internal, sizeof(id.internal)));
  std::shared_ptr<Clique>& clique = C().by_id[key];
  if (clique == nullptr) {
    clique = std::make_shared<Clique>();
    clique->ranks.resize(static_cast<size_t>(size));
  }
  if (static_cast<int>(clique->ranks.size()) != size || clique->ranks[rank] != nullptr) {
    return Refuse(nullptr, ncclInvalidArgument, "ranks do not agree on who they are");
  }
  if (SharesGpu(*clique, CurrentDevice())) {
    return Refuse(nullptr, ncclInvalidUsage, "two ranks on one GPU");
  }
  auto made = std::make_unique<ncclComm>();
  made->clique = clique.get();
  made->rank = rank;
  made->device = CurrentDevice();
  made->blocking = config == nullptr || config->blocking != 0;
  made->sends.resize(static_cast<size_t>(size));
  made->receives.resize(static_cast<size_t>(size));
  *comm = made.get();
  C().alive.emplace(*comm, clique);
  const bool blocking = made->blocking;
  clique->ranks[rank] = std::move(made);
  const std::shared_ptr<Clique> joined = clique;
  if (++joined->joined == size) C().by_id.erase(key);
  R().changed.SignalAll();
  if (!blocking) return ncclInProgress;
  while (joined->joined < size) R().changed.Wait(&R().mutex);
  return ncclSuccess;
}

ncclResult_t ncclCommGetAsyncError(ncclComm_t comm, ncclResult_t* error) {
  tessera::MutexLock lock(&R().mutex);
  if (!IsAlive(comm)) return Refuse(nullptr, ncclInvalidArgument, "no such communicator");
  *error = ncclInProgress;
  if (comm->clique->joined < static_cast<int>(comm->clique->ranks.size())) return ncclSuccess;
  if (!comm->unfinished.empty() && comm->polls_left-- > 0) return ncclSuccess;
  *error = Finish(comm) == cudaSuccess ? ncclSuccess : ncclUnhandledCudaError;
  return ncclSuccess;
}

ncclResult_t ncclCommFinalize(ncclComm_t comm) {
  tessera::MutexLock lock(&R().mutex);
  if (!IsAlive(comm)) return Refuse(nullptr, ncclInvalidArgument, "no such communicator");
  if (IsInProgress(*comm)) return Refuse(comm, ncclInvalidUsage, "a call is still in progress");
  return ncclSuccess;
}

ncclResult_t ncclCommDestroy(ncclComm_t comm) {
  tessera::MutexLock lock(&R().mutex);
  if (!IsAlive(comm)) return Refuse(nullptr, ncclInvalidArgument, "no such communicator");
  Forget(comm);
  return ncclSuccess;
}

// Peers are not told: theirs wait on, as they do on GPUs.
ncclResult_t ncclCommAbort(ncclComm_t comm) {
  tessera::MutexLock lock(&R().mutex);
  if (!IsAlive(comm)) return Refuse(nullptr, ncclInvalidArgument, "no such communicator");
  Forget(comm);
  return ncclSuccess;
}
TESSERA_NCCL_END
