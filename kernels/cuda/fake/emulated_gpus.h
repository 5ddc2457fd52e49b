// What programs may ask of emulated GPUs beyond the CUDA runtime: reports, and a fresh start.
#ifndef TESSERA_KERNELS_CUDA_FAKE_EMULATED_GPUS_H_
#define TESSERA_KERNELS_CUDA_FAKE_EMULATED_GPUS_H_

#include <string>

namespace tessera::simt::fake {

// What has broken a GPU; empty: nothing. Also what cudaGetErrorString says of
// cudaErrorLaunchFailure.
std::string Report(int device);
// The first report of any GPU; empty: none.
std::string AnyReport();
// Forgets reports and whatever is enqueued. What is allocated stays. Not while anything executes.
void Reset();

}  // namespace tessera::simt::fake

#endif  // TESSERA_KERNELS_CUDA_FAKE_EMULATED_GPUS_H_
