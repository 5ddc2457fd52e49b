#include "kernels/cuda/cuda_error.h"

#include <algorithm>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "kernels/core/status_macros.h"

namespace tessera::cuda {
namespace {

// Kernels use instructions of this compute capability.
constexpr int kOldestMajor = 8;

std::string VersionName(int version) {
  return absl::StrCat(version / 1000, ".", version % 1000 / 10);
}

std::string WhyNoGpus(cudaError_t error) {
  int driver = 0;
  int runtime = 0;
  cudaDriverGetVersion(&driver);
  cudaRuntimeGetVersion(&runtime);
  if (driver == 0) return "this machine has no NVIDIA driver";
  if (error == cudaErrorInsufficientDriver) {
    return absl::StrCat("the NVIDIA driver of this machine is made for CUDA ", VersionName(driver),
                        ", but this program needs ", VersionName(runtime));
  }
  if (error == cudaErrorNoDevice) return "the NVIDIA driver finds no GPU in this machine";
  return absl::StrCat("the NVIDIA driver cannot be used: ", cudaGetErrorString(error));
}

}  // namespace

absl::Status ToStatus(cudaError_t error, int gpu, std::string_view action) {
  if (error == cudaSuccess) return absl::OkStatus();
  return absl::InternalError(
      absl::StrCat("GPU ", gpu, ": ", std::string(action), " failed: ", cudaGetErrorString(error)));
}

absl::Status CheckGpu(int index) {
  int count = 0;
  const cudaError_t error = cudaGetDeviceCount(&count);
  if (error != cudaSuccess) {
    cudaGetLastError();  // is not that of a later call
    return absl::InvalidArgumentError(absl::StrCat("no GPU to run on: ", WhyNoGpus(error)));
  }
  if (index >= count) {
    return absl::InvalidArgumentError(
        absl::StrCat("there is no GPU ", index, " to run on: this machine has ", count));
  }
  cudaDeviceProp properties;
  const cudaError_t unknown = cudaGetDeviceProperties(&properties, index);
  if (unknown != cudaSuccess) return ToStatus(unknown, index, "asking for its properties");
  if (properties.major < kOldestMajor) {
    return absl::InvalidArgumentError(absl::StrCat(
        "GPU ", index, " (", properties.name, ") has compute capability ", properties.major, ".",
        properties.minor, ", but the kernels of this program need ", kOldestMajor, ".0"));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::string> DescribeGpus() {
  RETURN_IF_ERROR(CheckGpu(0));
  int count = 0;
  cudaGetDeviceCount(&count);
  std::vector<std::string> models;
  for (int index = 0; index < count; ++index) {
    cudaDeviceProp properties;
    const cudaError_t unknown = cudaGetDeviceProperties(&properties, index);
    if (unknown != cudaSuccess) return ToStatus(unknown, index, "asking for its properties");
    const bool known = std::find(models.begin(), models.end(), properties.name) != models.end();
    if (!known) models.emplace_back(properties.name);
  }
  return absl::StrCat(count, count == 1 ? " GPU (" : " GPUs (", absl::StrJoin(models, ", "), ")");
}

}  // namespace tessera::cuda
