// Kernels around the instructions of ptx.h that order or move memory, and the mathematics of
// simt.h.
#ifndef TESSERA_TESTS_KERNELS_CUDA_MEMORY_INSTRUCTIONS_H_
#define TESSERA_TESTS_KERNELS_CUDA_MEMORY_INSTRUCTIONS_H_

#include "kernels/cuda/simt/launch.h"
#include "kernels/cuda/simt/tensor_map.h"

namespace tessera::cuda {

// Two blocks of 64 threads, i = 0 to 127. `narrow` (zero before): sum of i + 1; largest 37 i mod
// 101; bits i mod 32 of even i; number of threads; what is left of an exchange of i + 1, and the
// sum of what others got from it; then of each block, in shared memory: sum, largest, bits of its
// i. `wide`: sum of 2^33 + i; largest 2^40 i; then of each block, in shared memory: sum of 2^33 +
// i.
inline constexpr int kNarrowWords = 12;
inline constexpr int kWideWords = 4;
cudaError_t AtomicWords(cudaStream_t stream, uint32_t* narrow, uint64_t* wide);

// One warp releases two words, by a flag for its GPU and by one for the system; another one
// acquires them. All three arrays have two elements; flags are zero before.
struct ReleasedWords {
  uint32_t* flags;
  uint32_t* words;
  uint32_t* out;  // 7 and 9
};
cudaError_t ReleaseWords(cudaStream_t stream, const ReleasedWords& words);

// out[l] = the first l mod 17 bytes of in[l], then zeros; 32 times 16 bytes, by cp.async of one
// warp and stores of another one behind a named barrier.
cudaError_t CopyWords(cudaStream_t stream, const uint32_t* in, uint32_t* out);

// Of each x in `in`, as bits: Exp2(x), Exp(x), Log(|x|), Sin(x), Cos(x), Fma(x, 1.5, 0.1),
// Sqrt(|x|), Rsqrt(|x|), RoundToBf16(x), PackBf16(x, -x). n is at most 128.
inline constexpr int kMathWords = 10;
cudaError_t MathWords(cudaStream_t stream, int n, const float* in, uint32_t* out);

// out[i] = 3 i + 1, of 64, by two kernels of which the second may start before the first has ended.
cudaError_t DependentWords(cudaStream_t stream, uint32_t* between, uint32_t* out);

// sm_90. out[l] = 5 l: one warp stores in shared memory, another one reads behind an mbarrier.
cudaError_t BarrierWords(cudaStream_t stream, uint32_t* out);
// sm_90. out = {101, 100}: what each block of a cluster reads from the other one.
cudaError_t PeerWords(cudaStream_t stream, uint32_t* out);
// sm_90. out [64, 64] = the box at row 0 of a map with 64-row boxes that lies in the GPU's memory.
cudaError_t BoxWords(cudaStream_t stream, const simt::TensorMap* map, uint16_t* out);
// sm_90. out [2, 64, 64] = rows 0 to 63 in each block of a pair, of a map with 32-row boxes: each
// block has loaded one half for both.
cudaError_t SharedBoxWords(cudaStream_t stream, const simt::TensorMap* map, uint16_t* out);

}  // namespace tessera::cuda

#endif  // TESSERA_TESTS_KERNELS_CUDA_MEMORY_INSTRUCTIONS_H_
