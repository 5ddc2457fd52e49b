#include "kernels/ops.h"

#include <string>

#include "absl/strings/str_cat.h"
#include "kernels/cpu/cpu_ops.h"
#include "kernels/cuda/cuda_ops.h"
#include "kernels/queued/queued_ops.h"
#include "kernels/ref/ref_ops.h"

namespace tessera {
namespace {

using Result = absl::StatusOr<std::unique_ptr<Ops>>;

struct Backend {
  std::string_view name;
  bool executes_at_once;
  bool uses_host_memory;
  Result (*create)(const OpsOptions&);
};

constexpr Backend kBackends[] = {
    {"cpu", true, true, CreateCpuOps},
    {"ref", true, true, [](const OpsOptions& options) { return Result(CreateRefOps(options)); }},
    {"queued", false, true,
     [](const OpsOptions& options) { return Result(CreateQueuedOps(options)); }},
#ifdef TESSERA_CUDA_EMULATED
    {"cuda-emulated", false, true, CreateEmulatedCudaOps},
#endif
#ifdef TESSERA_CUDA
    {"cuda", false, false, CreateCudaOps},
#endif
};

const Backend* Find(std::string_view name) {
  for (const Backend& backend : kBackends) {
    if (backend.name == name) return &backend;
  }
  return nullptr;
}

// What the cuda backend can use here, else why it cannot be used.
absl::StatusOr<std::string> DescribeGpus() {
#ifdef TESSERA_CUDA
  return DescribeCuda();
#else
  return absl::InvalidArgumentError(
      "this program was built without GPU kernels (TESSERA_CUDA, which needs nvcc)");
#endif
}

}  // namespace

absl::StatusOr<std::unique_ptr<Ops>> CreateOps(const OpsOptions& options) {
  if (options.num_threads < 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("a backend needs at least one thread, not ", options.num_threads));
  }
  if (options.gemm != "ours" && options.backend.substr(0, 4) != "cuda") {
    return absl::InvalidArgumentError(
        absl::StrCat("--gemm ", std::string(options.gemm), " is for GPUs; the ",
                     std::string(options.backend), " backend has products of its own only"));
  }
  if (const Backend* backend = Find(options.backend)) return backend->create(options);
  if (options.backend == "cuda") return DescribeGpus().status();
  std::string linked;
  for (std::string_view name : LinkedBackends()) absl::StrAppend(&linked, " ", std::string(name));
  return absl::InvalidArgumentError(absl::StrCat("no backend '", std::string(options.backend),
                                                 "' in this program; it has:", linked));
}

BackendChoice ChooseBackend() {
  const absl::StatusOr<std::string> gpus = DescribeGpus();
  if (gpus.ok()) return {.backend = "cuda", .why = absl::StrCat("this machine has ", *gpus)};
  return {.backend = "cpu", .why = std::string(gpus.status().message())};
}

std::vector<std::string_view> LinkedBackends() {
  std::vector<std::string_view> names;
  for (const Backend& backend : kBackends) {
    if (backend.name != "cuda" || DescribeGpus().ok()) names.push_back(backend.name);
  }
  return names;
}

bool ExecutesAtOnce(std::string_view backend) {
  const Backend* found = Find(backend);
  return found != nullptr && found->executes_at_once;
}

bool UsesHostMemory(std::string_view backend) {
  const Backend* found = Find(backend);
  return found != nullptr && found->uses_host_memory;
}

}  // namespace tessera
