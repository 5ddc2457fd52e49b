#include "kernels/cuda/simt/ptx.h"
#include "tests/kernels/cuda/instructions.h"

namespace tessera::cuda {
namespace {

using simt::Bf16;
using simt::kFullMask;
using simt::LaunchShape;
using simt::SharedMemory;
using simt::TensorMap;
namespace ptx = simt::ptx;

SIMT_DEVICE int Lane() { return static_cast<int>(threadIdx.x); }

template <typename T>
SIMT_DEVICE void StoreTile(const T (&d)[4], T* out) {
  for (int i = 0; i < 4; ++i) out[(Lane() / 4 + i / 2 * 8) * 8 + Lane() % 4 * 2 + i % 2] = d[i];
}

SIMT_KERNEL(32, 1) MmaKernel(MmaType type, const uint32_t* a, const uint32_t* b, void* out) {
  const int row = Lane() / 4, word = Lane() % 4;
  const uint32_t fa[4] = {a[row * 8 + word], a[(row + 8) * 8 + word], a[row * 8 + word + 4],
                          a[(row + 8) * 8 + word + 4]};
  const uint32_t b0 = b[row * 8 + word], b1 = b[row * 8 + word + 4];
  if (type == MmaType::kInt8) {
    int d[4] = {};
    ptx::MmaS8(d, fa, b0, b1);
    StoreTile(d, static_cast<int*>(out));
    return;
  }
  float d[4] = {};
  if (type == MmaType::kBf16) {
    ptx::MmaBf16(d, fa, b0, b1);
  } else {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 890
    ptx::MmaE4m3(d, fa, b0, b1);
#endif
  }
  StoreTile(d, static_cast<float*>(out));
}

struct Matrices {
  alignas(16) uint16_t values[32 * 8];
};

SIMT_KERNEL(32, 1) LdMatrixKernel(bool trans, const uint16_t* matrices, uint32_t* out) {
  Matrices& shared = SharedMemory<Matrices>();
  for (int i = 0; i < 8; ++i) shared.values[Lane() * 8 + i] = matrices[Lane() * 8 + i];
  __syncwarp();
  uint32_t r[4];
  if (trans) {
    ptx::LdMatrixX4Trans(r, shared.values + Lane() * 8);
  } else {
    ptx::LdMatrixX4(r, shared.values + Lane() * 8);
  }
  for (int i = 0; i < 4; ++i) out[Lane() * 4 + i] = r[i];
}

struct WgmmaShared {
  alignas(1024) Bf16 a[64 * 64];
  alignas(1024) Bf16 b[128 * 64];
  uint64_t full;
};

template <int kN>
SIMT_KERNEL(128, 1)
WgmmaKernel(const SIMT_GRID_CONSTANT WgmmaMaps maps, float* out) {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ == 900
  WgmmaShared& shared = SharedMemory<WgmmaShared>();
  if (threadIdx.x == 0) {
    ptx::MBarrierInit(&shared.full, 1);
    ptx::FenceBarrierInit();
  }
  __syncthreads();
  if (threadIdx.x == 0) {
    ptx::MBarrierArriveExpectTx(&shared.full, sizeof(shared.a) + sizeof(shared.b));
    ptx::TmaLoad2D(shared.a, &maps.a, &shared.full, 0, 0);
    ptx::TmaLoad2D(shared.b, &maps.b, &shared.full, 0, 0);
  }
  ptx::MBarrierWait(&shared.full, 0);
  float d[kN / 2];
  ptx::WgmmaFenceOperand(d);
  ptx::WgmmaFence();
  for (int k = 0; k < 64; k += 16) {
    ptx::Wgmma(d, ptx::WgmmaDescriptor(shared.a + k), ptx::WgmmaDescriptor(shared.b + k), k > 0);
  }
  ptx::WgmmaCommit();
  ptx::WgmmaWait<0>(d);
  const int row = static_cast<int>(threadIdx.x) / 32 * 16 + static_cast<int>(threadIdx.x) % 32 / 4;
  const int column = static_cast<int>(threadIdx.x) % 4 * 2;
  for (int i = 0; i < kN / 2; ++i) {
    out[(row + i % 4 / 2 * 8) * kN + column + i / 4 * 8 + i % 2] = d[i];
  }
#endif
}

struct PanelsShared {
  alignas(1024) Bf16 b[2][kPanelRows * 64];
  uint64_t full;
};

template <int kN>
SIMT_KERNEL(128, 1)
WgmmaPanelsKernel(const uint32_t* a, const SIMT_GRID_CONSTANT TensorMap map, float* out) {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ == 900
  PanelsShared& shared = SharedMemory<PanelsShared>();
  constexpr uint32_t kPanelBytes = sizeof(shared.b[0]);
  if (threadIdx.x == 0) {
    ptx::MBarrierInit(&shared.full, 1);
    ptx::FenceBarrierInit();
  }
  __syncthreads();
  if (threadIdx.x == 0) {
    ptx::MBarrierArriveExpectTx(&shared.full, kN / 64 * kPanelBytes);
    for (int p = 0; p < kN / 64; ++p) ptx::TmaLoad2D(shared.b[p], &map, &shared.full, p * 64, 0);
  }
  const int row = static_cast<int>(threadIdx.x) / 32 * 16 + Lane() % 32 / 4;
  uint32_t fragments[kPanelRows / 16][4];
  for (int k = 0; k < kPanelRows / 16; ++k) {
    for (int i = 0; i < 4; ++i) {
      fragments[k][i] = a[((row + i % 2 * 8) * kPanelRows + k * 16 + i / 2 * 8) / 2 + Lane() % 4];
    }
  }
  ptx::MBarrierWait(&shared.full, 0);
  float d[kN / 2] = {};
  ptx::WgmmaFenceOperand(d);
  ptx::WgmmaFenceOperand(fragments);
  ptx::WgmmaFence();
  for (int k = 0; k < kPanelRows / 16; ++k) {
    ptx::WgmmaPanels(d, fragments[k],
                     ptx::WgmmaPanelsDescriptor(&shared.b[0][k * 16 * 64], kPanelBytes));
  }
  ptx::WgmmaCommit();
  ptx::WgmmaWait<0>(d);
  ptx::WgmmaFenceOperand(fragments);
  for (int i = 0; i < kN / 2; ++i) {
    out[(row + i % 4 / 2 * 8) * kN + Lane() % 4 * 2 + i / 4 * 8 + i % 2] = d[i];
  }
#endif
}

SIMT_KERNEL(32, 1) WarpWordsKernel(uint64_t* out) {
  const auto lane = static_cast<uint32_t>(Lane());
  const uint32_t v = 3 * lane + 1;
  const uint64_t wide = uint64_t{v} << 40 | lane;
  const int sign = static_cast<int>(lane) - 16;
  const uint64_t results[kWarpWords] = {
      __shfl_sync(kFullMask, v, 5),
      __shfl_sync(kFullMask, v, 2, 8),
      __shfl_xor_sync(kFullMask, v, 9),
      __shfl_down_sync(kFullMask, v, 3),
      __shfl_up_sync(kFullMask, v, 3, 16),
      __shfl_xor_sync(kFullMask, wide, 1),
      __ballot_sync(kFullMask, lane % 3 == 0),
      __match_any_sync(kFullMask, lane % 5),
      __reduce_add_sync(kFullMask, v),
      static_cast<uint64_t>(static_cast<int64_t>(__reduce_min_sync(kFullMask, sign))),
      static_cast<uint64_t>(static_cast<int64_t>(__reduce_max_sync(kFullMask, sign))),
      __reduce_min_sync(kFullMask, v),
      __reduce_max_sync(kFullMask, v),
      static_cast<uint64_t>(__any_sync(kFullMask, lane == 7)) << 1 |
          static_cast<uint64_t>(__all_sync(kFullMask, lane < 31)),
      static_cast<uint64_t>(__popc(v)) << 16 |
          static_cast<uint64_t>(__ffs(static_cast<int>(v))) << 8 |
          static_cast<uint64_t>(__clz(static_cast<int>(v)))};
  for (int i = 0; i < kWarpWords; ++i) out[i * 32 + Lane()] = results[i];
}

}  // namespace

cudaError_t MmaTile(cudaStream_t stream, MmaType type, const uint32_t* a, const uint32_t* b,
                    void* out) {
  const LaunchShape shape{.grid = dim3(1), .block = dim3(32), .stream = stream};
  return SIMT_LAUNCH(shape, MmaKernel, type, a, b, out);
}
cudaError_t LdMatrixTile(cudaStream_t stream, bool trans, const uint16_t* matrices, uint32_t* out) {
  const LaunchShape shape{
      .grid = dim3(1), .block = dim3(32), .shared_bytes = sizeof(Matrices), .stream = stream};
  return SIMT_LAUNCH(shape, LdMatrixKernel, trans, matrices, out);
}
cudaError_t WgmmaTile(cudaStream_t stream, int n, const WgmmaMaps& maps, float* out) {
  const LaunchShape shape{
      .grid = dim3(1), .block = dim3(128), .shared_bytes = sizeof(WgmmaShared), .stream = stream};
  switch (n) {
    case 8:
      return SIMT_LAUNCH(shape, WgmmaKernel<8>, maps, out);
    case 16:
      return SIMT_LAUNCH(shape, WgmmaKernel<16>, maps, out);
    case 32:
      return SIMT_LAUNCH(shape, WgmmaKernel<32>, maps, out);
    case 64:
      return SIMT_LAUNCH(shape, WgmmaKernel<64>, maps, out);
    default:
      return SIMT_LAUNCH(shape, WgmmaKernel<128>, maps, out);
  }
}
cudaError_t WgmmaPanelsTile(cudaStream_t stream, int n, const uint32_t* a, const simt::TensorMap& b,
                            float* out) {
  const LaunchShape shape{
      .grid = dim3(1), .block = dim3(128), .shared_bytes = sizeof(PanelsShared), .stream = stream};
  return n == 64 ? SIMT_LAUNCH(shape, WgmmaPanelsKernel<64>, a, b, out)
                 : SIMT_LAUNCH(shape, WgmmaPanelsKernel<128>, a, b, out);
}
cudaError_t WarpWords(cudaStream_t stream, uint64_t* out) {
  const LaunchShape shape{.grid = dim3(1), .block = dim3(32), .stream = stream};
  return SIMT_LAUNCH(shape, WarpWordsKernel, out);
}

}  // namespace tessera::cuda
