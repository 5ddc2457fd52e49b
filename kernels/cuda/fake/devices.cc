#include <cuda_runtime.h>

#include <cstdio>

#include "kernels/cuda/fake/machine_faults.h"
#include "kernels/cuda/fake/runtime.h"

namespace tessera::simt::fake {
namespace {

thread_local int t_device = 0;

}  // namespace

int CurrentDevice() { return t_device; }
void SetCurrentDevice(int device) { t_device = device; }

}  // namespace tessera::simt::fake

using namespace tessera::simt::fake;  // NOLINT: these functions are in no namespace by contract
using tessera::simt::emulation::GetOptions;

namespace {

bool Exists(int device) { return device >= 0 && device < GetOptions().devices; }

std::string NameOf(int device) {
  const std::vector<std::string>& names = GetFaults().names;
  const auto index = static_cast<size_t>(device);
  if (index < names.size() && !names[index].empty()) return names[index];
  return "Emulated GPU (sm_" + std::to_string(GetOptions().compute_capability) + ")";
}

size_t SharedBytes() { return tessera::simt::emulation::SharedBytesPerBlock(); }

}  // namespace

TESSERA_CUDA_API_BEGIN
cudaError_t cudaRuntimeGetVersion(int* version) {
  *version = kRuntimeVersion;
  return cudaSuccess;
}
cudaError_t cudaDriverGetVersion(int* version) {
  *version = GetFaults().driver_version;
  return cudaSuccess;
}

cudaError_t cudaGetDeviceCount(int* count) {
  if (GetFaults().driver_version < kRuntimeVersion) {
    *count = 0;
    return Failed(cudaErrorInsufficientDriver);
  }
  *count = GetOptions().devices;
  return *count == 0 ? Failed(cudaErrorNoDevice) : cudaSuccess;
}

cudaError_t cudaSetDevice(int device) {
  if (!Exists(device)) return Failed(cudaErrorInvalidDevice);
  SetCurrentDevice(device);
  return cudaSuccess;
}

cudaError_t cudaGetDevice(int* device) {
  *device = CurrentDevice();
  return cudaSuccess;
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device) {
  if (!Exists(device)) return Failed(cudaErrorInvalidDevice);
  *properties = {};
  std::snprintf(properties->name, sizeof(properties->name), "%s", NameOf(device).c_str());
  properties->totalGlobalMem = GetOptions().memory_bytes;
  properties->sharedMemPerBlockOptin = SharedBytes();
  properties->major = GetOptions().compute_capability / 10;
  properties->minor = GetOptions().compute_capability % 10;
  properties->multiProcessorCount = GetOptions().multiprocessors;
  properties->pciBusID = device + 1;
  return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device) {
  if (!Exists(device)) return Failed(cudaErrorInvalidDevice);
  switch (attribute) {
    case cudaDevAttrMultiProcessorCount:
      *value = GetOptions().multiprocessors;
      break;
    case cudaDevAttrComputeCapabilityMajor:
      *value = GetOptions().compute_capability / 10;
      break;
    case cudaDevAttrComputeCapabilityMinor:
      *value = GetOptions().compute_capability % 10;
      break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
      *value = static_cast<int>(SharedBytes());
      break;
    default:
      return Failed(cudaErrorInvalidValue, "an attribute that emulated GPUs do not have");
  }
  return cudaSuccess;
}

cudaError_t cudaDeviceCanAccessPeer(int* can, int device, int peer) {
  if (!Exists(device) || !Exists(peer)) return Failed(cudaErrorInvalidDevice);
  *can = device != peer && GetFaults().peer_access ? 1 : 0;
  return cudaSuccess;
}

cudaError_t cudaDeviceEnablePeerAccess(int peer, unsigned flags) {
  if (flags != 0) return Failed(cudaErrorInvalidValue);
  if (!Exists(peer) || peer == CurrentDevice() || !GetFaults().peer_access) {
    return Failed(cudaErrorInvalidDevice);
  }
  if (!tessera::simt::emulation::EnablePeerAccess(CurrentDevice(), peer)) {
    return Failed(cudaErrorPeerAccessAlreadyEnabled);
  }
  return cudaSuccess;
}

cudaError_t cudaDeviceSynchronize() {
  tessera::MutexLock lock(&R().mutex);
  Gpu& gpu = R().gpus[CurrentDevice()];
  for (size_t i = 0; i < gpu.streams.size(); ++i) {
    CUstream_st* s = gpu.streams[i];
    if (s->capture != nullptr) return Failed(cudaErrorStreamCaptureUnsupported);
    DriveTo({s, s->enqueued});
    Merge(&R().host_seen, s->seen);
  }
  return Sticky(gpu);
}

TESSERA_CUDA_API_END
