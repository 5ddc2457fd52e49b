#include "parallel/nccl/nccl_library.h"

#include <dlfcn.h>

#include <string_view>

#include "absl/strings/str_cat.h"

namespace tessera::cuda {
namespace {

// The first one whose calls all work without blocking, aborts included.
constexpr int kOldestVersion = 21801;

constexpr std::string_view kAdvice =
    "install NVIDIA's libnccl2, or put the folder that holds libnccl.so.2 into LD_LIBRARY_PATH";

absl::Status Missing(std::string_view what) {
  return absl::FailedPreconditionError(
      absl::StrCat("several GPUs need NCCL ", NcclVersionName(kOldestVersion), " or newer, but ",
                   std::string(what), "; ", std::string(kAdvice)));
}

// False: the library does not have it.
template <typename Function>
bool Find(void* library, const char* name, Function* function) {
  *function = reinterpret_cast<Function>(dlsym(library, name));
  return *function != nullptr;
}

// The name of a function that the library does not have; null: it has them all.
const char* FindAll(void* library, NcclLibrary* nccl) {
#define TESSERA_FIND(member, name) \
  if (!Find(library, name, &nccl->member)) return name
  TESSERA_FIND(get_error_string, "ncclGetErrorString");
  TESSERA_FIND(get_last_error, "ncclGetLastError");
  TESSERA_FIND(get_unique_id, "ncclGetUniqueId");
  TESSERA_FIND(comm_init_rank_config, "ncclCommInitRankConfig");
  TESSERA_FIND(comm_get_async_error, "ncclCommGetAsyncError");
  TESSERA_FIND(comm_finalize, "ncclCommFinalize");
  TESSERA_FIND(comm_destroy, "ncclCommDestroy");
  TESSERA_FIND(comm_abort, "ncclCommAbort");
  TESSERA_FIND(group_start, "ncclGroupStart");
  TESSERA_FIND(group_end, "ncclGroupEnd");
  TESSERA_FIND(send, "ncclSend");
  TESSERA_FIND(recv, "ncclRecv");
  TESSERA_FIND(all_gather, "ncclAllGather");
  TESSERA_FIND(broadcast, "ncclBroadcast");
#undef TESSERA_FIND
  return nullptr;
}

}  // namespace

std::string NcclVersionName(int version) {
  return absl::StrCat(version / 10000, ".", version / 100 % 100, ".", version % 100);
}

absl::StatusOr<NcclLibrary> LoadNccl(const std::string& file) {
  void* library = dlopen(file.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    const char* reason = dlerror();  // NOLINT(concurrency-mt-unsafe): glibc keeps it per thread
    return Missing(absl::StrCat("it cannot be loaded (", reason, ")"));
  }
  decltype(&::ncclGetVersion) get_version = nullptr;
  NcclLibrary nccl;
  if (!Find(library, "ncclGetVersion", &get_version) || get_version(&nccl.version) != ncclSuccess) {
    return Missing(absl::StrCat(file, " does not tell its version"));
  }
  if (nccl.version < kOldestVersion) {
    // Releases before 2.9 count in thousands; none of them matters.
    return Missing(absl::StrCat(file, " is version ", NcclVersionName(nccl.version)));
  }
  const char* missing = FindAll(library, &nccl);
  if (missing != nullptr) return Missing(absl::StrCat(file, " has no function ", missing));
  return nccl;
}

}  // namespace tessera::cuda
