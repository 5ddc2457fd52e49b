// What programs may ask of emulated GPUs beyond the CUDA runtime: reports, and a fresh start.
#ifndef TESSERA_KERNELS_CUDA_FAKE_EMULATED_GPUS_H_
#define TESSERA_KERNELS_CUDA_FAKE_EMULATED_GPUS_H_

#include <cstdint>
#include <string>

namespace tessera::simt::fake {

// What has broken a GPU; empty: nothing. Also what cudaGetErrorString says of
// cudaErrorLaunchFailure.
std::string Report(int device);
// The first report of any GPU; empty: none.
std::string AnyReport();
// Forgets reports and whatever is enqueued. What is allocated stays. Not while anything executes.
void Reset();

// Calls of the process so far, on all GPUs.
struct GraphCalls {
  uint64_t captured = 0;  // captures that were begun
  uint64_t launched = 0;
};
GraphCalls CountedGraphCalls();

}  // namespace tessera::simt::fake

#endif  // TESSERA_KERNELS_CUDA_FAKE_EMULATED_GPUS_H_
