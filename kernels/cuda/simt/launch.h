// Launches a kernel on a stream: cudaLaunchKernelEx, or the emulator behind the fake runtime.
#ifndef TESSERA_KERNELS_CUDA_SIMT_LAUNCH_H_
#define TESSERA_KERNELS_CUDA_SIMT_LAUNCH_H_

#include <type_traits>

#include "kernels/cuda/simt/simt.h"

#ifdef SIMT_EMULATED
#include <tuple>
#endif

namespace tessera::simt {

struct LaunchShape {
  dim3 grid;
  dim3 block;
  size_t shared_bytes = 0;  // dynamic shared memory of a block
  cudaStream_t stream = nullptr;
  dim3 cluster = dim3(1, 1, 1);  // blocks of a cluster; more than one needs sm_90
  // May start before the kernel in front of it in the stream has ended (programmatic dependent
  // launch): the kernel calls ptx::GridDependencyWait before it touches what others produce or
  // read.
  bool dependent = false;
  // Its blocks wait for blocks of other GPUs, so all of them must get onto the GPU, whichever come
  // first: at most one per multiprocessor.
  bool together = false;
};

inline constexpr size_t kMaxParameterBytes = 4096;

#if defined(SIMT_EMULATED)

// A launch: every thread executes call(parameters), which calls the kernel at `code`.
struct KernelCall {
  const char* name;
  const void* code;
  void (*call)(const void* parameters);
  const void* parameters;
  size_t bytes;
};
// Copies the parameters and enqueues it. cudaErrorInvalidConfiguration when no GPU would take the
// shape.
cudaError_t EnqueueKernel(const LaunchShape& shape, const KernelCall& call);

template <typename... Parameters, typename... Args>
cudaError_t LaunchNamed(const char* name, void (*kernel)(Parameters...), const LaunchShape& shape,
                        Args&&... args) {
  struct Call {
    void (*kernel)(Parameters...);
    std::tuple<std::decay_t<Parameters>...> values;
  };
  static_assert((std::is_trivially_copyable_v<std::decay_t<Parameters>> && ...));
  static_assert(sizeof(Call) <= kMaxParameterBytes);
  const Call call{kernel, {static_cast<Parameters>(args)...}};
  return EnqueueKernel(shape, {name, reinterpret_cast<const void*>(kernel),
                               [](const void* parameters) {
                                 const auto* c = static_cast<const Call*>(parameters);
                                 std::apply(c->kernel, c->values);
                               },
                               &call, sizeof(call)});
}

#elif defined(__CUDACC__)

template <typename... Parameters, typename... Args>
cudaError_t LaunchNamed(const char*, void (*kernel)(Parameters...), const LaunchShape& shape,
                        Args&&... args) {
  static_assert((std::is_trivially_copyable_v<std::decay_t<Parameters>> && ...));
  constexpr size_t kWithoutAsking = 48 * 1024;
  if (shape.shared_bytes > kWithoutAsking) {
    const cudaError_t error = cudaFuncSetAttribute(
        kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shape.shared_bytes));
    if (error != cudaSuccess) return error;
  }
  cudaLaunchAttribute attributes[2];
  cudaLaunchConfig_t config = {};
  config.gridDim = shape.grid;
  config.blockDim = shape.block;
  config.dynamicSmemBytes = shape.shared_bytes;
  config.stream = shape.stream;
  config.attrs = attributes;
  if (shape.cluster.x * shape.cluster.y * shape.cluster.z > 1) {
    attributes[config.numAttrs].id = cudaLaunchAttributeClusterDimension;
    attributes[config.numAttrs].val.clusterDim.x = shape.cluster.x;
    attributes[config.numAttrs].val.clusterDim.y = shape.cluster.y;
    attributes[config.numAttrs].val.clusterDim.z = shape.cluster.z;
    ++config.numAttrs;
  }
  if (shape.dependent) {
    attributes[config.numAttrs].id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attributes[config.numAttrs].val.programmaticStreamSerializationAllowed = 1;
    ++config.numAttrs;
  }
  return cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(args)...);
}

#endif

// SIMT_LAUNCH(shape, kernel, arguments...): a cudaError_t.
#define SIMT_LAUNCH(shape, kernel, ...) \
  ::tessera::simt::LaunchNamed(#kernel, kernel, shape, __VA_ARGS__)

}  // namespace tessera::simt

#endif  // TESSERA_KERNELS_CUDA_SIMT_LAUNCH_H_
