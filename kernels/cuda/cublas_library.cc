#include "kernels/cuda/cublas_library.h"

#include <dlfcn.h>

#include <string_view>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace tessera::cuda {
namespace {

constexpr size_t kOldestVersion = 120000;

absl::Status Missing(std::string_view what) {
  return absl::FailedPreconditionError(absl::StrCat(
      "--gemm cublas needs cuBLASLt 12 or newer, but ", std::string(what),
      "; install NVIDIA's libcublas, or put the folder that holds it into LD_LIBRARY_PATH"));
}

// False: the library does not have it.
template <typename Function>
bool Find(void* library, const char* name, Function* function) {
  *function = reinterpret_cast<Function>(dlsym(library, name));
  return *function != nullptr;
}

// The name of a function that the library does not have; null: it has them all.
const char* FindAll(void* library, CublasLibrary* cublas) {
#define TESSERA_FIND(member, name) \
  if (!Find(library, name, &cublas->member)) return name
  TESSERA_FIND(create, "cublasLtCreate");
  TESSERA_FIND(destroy, "cublasLtDestroy");
  TESSERA_FIND(desc_create, "cublasLtMatmulDescCreate");
  TESSERA_FIND(desc_destroy, "cublasLtMatmulDescDestroy");
  TESSERA_FIND(desc_set, "cublasLtMatmulDescSetAttribute");
  TESSERA_FIND(layout_create, "cublasLtMatrixLayoutCreate");
  TESSERA_FIND(layout_destroy, "cublasLtMatrixLayoutDestroy");
  TESSERA_FIND(preference_create, "cublasLtMatmulPreferenceCreate");
  TESSERA_FIND(preference_destroy, "cublasLtMatmulPreferenceDestroy");
  TESSERA_FIND(preference_set, "cublasLtMatmulPreferenceSetAttribute");
  TESSERA_FIND(heuristic, "cublasLtMatmulAlgoGetHeuristic");
  TESSERA_FIND(matmul, "cublasLtMatmul");
#undef TESSERA_FIND
  return nullptr;
}

}  // namespace

absl::StatusOr<CublasLibrary> LoadCublas(const std::vector<std::string>& files) {
  void* library = nullptr;
  std::string loaded;
  for (const std::string& file : files) {
    if (library != nullptr) break;
    library = dlopen(file.c_str(), RTLD_NOW | RTLD_LOCAL);
    loaded = file;
  }
  if (library == nullptr) {
    return Missing(
        absl::StrCat("there is no ", absl::StrJoin(files, " and no "), " that can be loaded"));
  }
  decltype(&::cublasLtGetVersion) get_version = nullptr;
  if (!Find(library, "cublasLtGetVersion", &get_version)) {
    return Missing(absl::StrCat(loaded, " does not tell its version"));
  }
  CublasLibrary cublas;
  cublas.version = get_version();
  if (cublas.version < kOldestVersion) {
    return Missing(absl::StrCat(loaded, " is version ", cublas.version / 10000, ".",
                                cublas.version / 100 % 100));
  }
  const char* missing = FindAll(library, &cublas);
  if (missing != nullptr) return Missing(absl::StrCat(loaded, " has no function ", missing));
  return cublas;
}

}  // namespace tessera::cuda
