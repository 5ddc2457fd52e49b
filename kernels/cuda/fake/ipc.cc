// Memory of one process that others open. All of them are one here.
#include <cuda_runtime.h>

#include <cstring>
#include <map>

#include "kernels/cuda/fake/machine_faults.h"
#include "kernels/cuda/fake/runtime.h"

namespace tessera::simt::fake {
namespace {

// How often each allocation is open.
std::map<const void*, int>& Opened() ABSL_EXCLUSIVE_LOCKS_REQUIRED(R().mutex) {
  static std::map<const void*, int>& opened = *new std::map<const void*, int>;
  return opened;
}

}  // namespace

bool IsOpen(const void* pointer) { return Opened().contains(pointer); }

}  // namespace tessera::simt::fake

using namespace tessera::simt::fake;  // NOLINT: these functions are in no namespace by contract
namespace emulation = tessera::simt::emulation;

TESSERA_CUDA_API_BEGIN
cudaError_t cudaIpcGetMemHandle(cudaIpcMemHandle_t* handle, void* pointer) {
  if (emulation::DeviceOf(pointer) < 0) return Failed(cudaErrorInvalidValue);
  std::memset(handle, 0, sizeof(*handle));
  std::memcpy(handle->reserved, &pointer, sizeof(pointer));
  return cudaSuccess;
}

cudaError_t cudaIpcOpenMemHandle(void** pointer, cudaIpcMemHandle_t handle, unsigned flags) {
  void* memory = nullptr;
  std::memcpy(&memory, handle.reserved, sizeof(memory));
  const int owner = emulation::DeviceOf(memory);
  if (owner < 0 || flags != cudaIpcMemLazyEnablePeerAccess) return Failed(cudaErrorInvalidValue);
  if (owner != CurrentDevice()) {
    if (!GetFaults().peer_access) return Failed(cudaErrorInvalidDevice);
    emulation::EnablePeerAccess(CurrentDevice(), owner);
  }
  tessera::MutexLock lock(&R().mutex);
  ++Opened()[memory];
  *pointer = memory;
  return cudaSuccess;
}

cudaError_t cudaIpcCloseMemHandle(void* pointer) {
  tessera::MutexLock lock(&R().mutex);
  const auto found = Opened().find(pointer);
  if (found == Opened().end()) return Failed(cudaErrorInvalidValue);
  if (--found->second == 0) Opened().erase(found);
  return cudaSuccess;
}

TESSERA_CUDA_API_END
