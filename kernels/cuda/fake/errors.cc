#include <cuda_runtime.h>

#include "kernels/cuda/fake/emulated_gpus.h"
#include "kernels/cuda/fake/runtime.h"

namespace tessera::simt::fake {
namespace {

thread_local cudaError_t t_last = cudaSuccess;
// What the last failure of this thread was about: cudaGetErrorString returns pointers to it.
thread_local std::string t_text;
thread_local cudaError_t t_text_of = cudaSuccess;

struct Name {
  cudaError_t error;
  const char* name;
  const char* text;
};
constexpr Name kNames[] = {
    {cudaSuccess, "cudaSuccess", "no error"},
    {cudaErrorInvalidValue, "cudaErrorInvalidValue", "invalid argument"},
    {cudaErrorMemoryAllocation, "cudaErrorMemoryAllocation", "out of memory"},
    {cudaErrorInitializationError, "cudaErrorInitializationError", "initialization error"},
    {cudaErrorInvalidConfiguration, "cudaErrorInvalidConfiguration", "invalid configuration"},
    {cudaErrorInsufficientDriver, "cudaErrorInsufficientDriver", "the driver is too old"},
    {cudaErrorNoDevice, "cudaErrorNoDevice", "no CUDA-capable device is detected"},
    {cudaErrorInvalidDevice, "cudaErrorInvalidDevice", "invalid device ordinal"},
    {cudaErrorInvalidResourceHandle, "cudaErrorInvalidResourceHandle", "invalid resource handle"},
    {cudaErrorSymbolNotFound, "cudaErrorSymbolNotFound", "named symbol not found"},
    {cudaErrorNotReady, "cudaErrorNotReady", "device not ready"},
    {cudaErrorPeerAccessAlreadyEnabled, "cudaErrorPeerAccessAlreadyEnabled",
     "peer access is already enabled"},
    {cudaErrorLaunchFailure, "cudaErrorLaunchFailure", "unspecified launch failure"},
    {cudaErrorStreamCaptureUnsupported, "cudaErrorStreamCaptureUnsupported",
     "operation not permitted when stream is capturing"},
    {cudaErrorStreamCaptureInvalidated, "cudaErrorStreamCaptureInvalidated",
     "operation failed due to a previous error during capture"},
    {cudaErrorStreamCaptureUnmatched, "cudaErrorStreamCaptureUnmatched",
     "the capture was not begun in this stream"},
    {cudaErrorStreamCaptureUnjoined, "cudaErrorStreamCaptureUnjoined",
     "capturing stream has unjoined work"},
    {cudaErrorStreamCaptureIsolation, "cudaErrorStreamCaptureIsolation",
     "dependency created on uncaptured work in another stream"},
};

const Name& NameOf(cudaError_t error) {
  for (const Name& name : kNames) {
    if (name.error == error) return name;
  }
  static constexpr Name kUnknown{cudaSuccess, "unrecognized", "unrecognized error code"};
  return kUnknown;
}

}  // namespace

cudaError_t Failed(cudaError_t error, std::string text) {
  t_last = error;
  t_text = std::move(text);
  t_text_of = error;
  return error;
}

cudaError_t Sticky(const Gpu& gpu) {
  if (gpu.report.empty()) return cudaSuccess;
  return Failed(cudaErrorLaunchFailure, gpu.report);
}

std::string Report(int device) {
  MutexLock lock(&R().mutex);
  return R().gpus[device].report;
}

std::string AnyReport() {
  MutexLock lock(&R().mutex);
  for (const Gpu& gpu : R().gpus) {
    if (!gpu.report.empty()) return gpu.report;
  }
  return "";
}

}  // namespace tessera::simt::fake

using namespace tessera::simt::fake;  // NOLINT: these functions are in no namespace by contract

TESSERA_CUDA_API_BEGIN
const char* cudaGetErrorName(cudaError_t error) { return NameOf(error).name; }

const char* cudaGetErrorString(cudaError_t error) {
  if (error == t_text_of && !t_text.empty()) return t_text.c_str();
  return NameOf(error).text;
}

cudaError_t cudaPeekAtLastError() {
  tessera::MutexLock lock(&R().mutex);
  const cudaError_t sticky = Sticky(R().gpus[CurrentDevice()]);
  return sticky != cudaSuccess ? sticky : t_last;
}

cudaError_t cudaGetLastError() {
  const cudaError_t error = cudaPeekAtLastError();
  t_last = cudaSuccess;
  return error;
}

TESSERA_CUDA_API_END
