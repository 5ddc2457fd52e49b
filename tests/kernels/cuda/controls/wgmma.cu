// wgmma (sm_90a): a warpgroup multiplies two tiles that its threads have stored.
#include "tests/kernels/cuda/controls/controls.h"

namespace tessera::cuda {
namespace {

using simt::Bf16;
using simt::SharedMemory;
using simt::TensorMap;
namespace ptx = simt::ptx;

constexpr int kThreads = 128;
constexpr int kTileK = 64;

struct Tiles {
  alignas(1024) Bf16 a[64 * kTileK];
  alignas(1024) Bf16 b[128 * kTileK];
};

enum class Wgmma {
  kRight,
  kNoFence,
  kNoProxyFence,
  kNoWait,
  kTouched,
  kOverwritten,
  kNoBarrier,
  kThreeWarps,
  kSwizzle,
  kOperands,
  kInstructions,
  kChanged,
  kNeverWaited,
};

template <Wgmma kWhat>
SIMT_DEVICE void Multiply(const ControlBuffers& buffers) {
  Tiles& shared = SharedMemory<Tiles>();
  const int thread = static_cast<int>(threadIdx.x);
  for (int i = thread; i < 64 * kTileK; i += kThreads) shared.a[i] = buffers.x[i];
  for (int i = thread; i < 128 * kTileK; i += kThreads) shared.b[i] = buffers.x[i];
  if (kWhat != Wgmma::kNoProxyFence) ptx::FenceProxyAsync();
  if (kWhat != Wgmma::kNoBarrier) __syncthreads();
  float sums[64] = {};
  ptx::WgmmaFenceOperand(sums);
  if (kWhat != Wgmma::kNoFence) ptx::WgmmaFence();
  if (kWhat == Wgmma::kThreeWarps && thread >= 96) return;
  if (kWhat == Wgmma::kInstructions && thread >= 64) ptx::WgmmaCommit();
  const uint64_t a = ptx::WgmmaDescriptor(shared.a);
  const uint64_t wrong =
      kWhat == Wgmma::kSwizzle ? a ^ uint64_t { 3 } << 62 : a + 2 * (thread / 64);
  if (kWhat == Wgmma::kSwizzle || kWhat == Wgmma::kOperands) ptx::WgmmaN128(sums, wrong, a, false);
  for (int k = 0; k < kTileK; k += 16) {
    ptx::WgmmaN128(sums, ptx::WgmmaDescriptor(shared.a + k), ptx::WgmmaDescriptor(shared.b + k),
                   k > 0);
    if (kWhat == Wgmma::kTouched && k == 16) sums[thread % 64] = 1;
  }
  ptx::WgmmaCommit();
  if (kWhat == Wgmma::kNeverWaited) return;
  if (kWhat == Wgmma::kOverwritten) shared.a[thread] = Bf16{0};
  if (kWhat != Wgmma::kNoWait) ptx::WgmmaWait<0>(sums);
  if (kWhat == Wgmma::kChanged) {
    sums[thread % 64] += 1;
    ptx::WgmmaN128(sums, a, a, true);
  }
  shared.b[thread] = Bf16{0};
  float sum = 0;
  for (float value : sums) sum += value;
  buffers.out[thread] = sum;
}

#define TESSERA_WGMMA_CONTROL(name)                                   \
  template <bool kBug>                                                \
  SIMT_KERNEL(kThreads, 1)                                            \
  Wgmma##name(ControlBuffers b, const SIMT_GRID_CONSTANT TensorMap) { \
    Multiply<kBug ? Wgmma::k##name : Wgmma::kRight>(b);               \
  }
TESSERA_WGMMA_CONTROL(NoFence)
TESSERA_WGMMA_CONTROL(NoProxyFence)
TESSERA_WGMMA_CONTROL(NoWait)
TESSERA_WGMMA_CONTROL(Touched)
TESSERA_WGMMA_CONTROL(Overwritten)
TESSERA_WGMMA_CONTROL(NoBarrier)
TESSERA_WGMMA_CONTROL(ThreeWarps)
TESSERA_WGMMA_CONTROL(Swizzle)
TESSERA_WGMMA_CONTROL(Operands)
TESSERA_WGMMA_CONTROL(Instructions)
TESSERA_WGMMA_CONTROL(Changed)
TESSERA_WGMMA_CONTROL(NeverWaited)

enum class Registers { kRight, kChanged, kUnfenced, kNoSwizzle };

// A first operand in registers.
template <Registers kWhat>
SIMT_DEVICE void MultiplyRegisters(const ControlBuffers& buffers) {
  Tiles& shared = SharedMemory<Tiles>();
  const int thread = static_cast<int>(threadIdx.x);
  for (int i = thread; i < 64 * kTileK; i += kThreads) shared.b[i] = buffers.x[i];
  ptx::FenceProxyAsync();
  __syncthreads();
  float sums[32] = {};
  uint32_t a[1][4] = {{buffers.words[thread], 0, 0, 0}};
  uint64_t b = ptx::WgmmaPanelsDescriptor(shared.b, 0);
  if (kWhat == Registers::kNoSwizzle) b ^= uint64_t{1} << 62;
  for (int k = 0; k < 2; ++k) {
    ptx::WgmmaFenceOperand(sums);
    ptx::WgmmaFenceOperand(a);
    if (k == 0 || kWhat != Registers::kUnfenced) ptx::WgmmaFence();
    ptx::WgmmaPanels(sums, a[0], b);
    ptx::WgmmaCommit();
    if (kWhat == Registers::kChanged) a[0][1] = 1 + static_cast<uint32_t>(k);
    ptx::WgmmaWait<0>(sums);
    ptx::WgmmaFenceOperand(a);
    a[0][2] = static_cast<uint32_t>(k) + 1;
  }
  float sum = 0;
  for (float value : sums) sum += value;
  buffers.out[thread] = sum;
}
#define TESSERA_REGISTERS_CONTROL(name)                                        \
  template <bool kBug>                                                         \
  SIMT_KERNEL(kThreads, 1)                                                     \
  WgmmaRegisters##name(ControlBuffers b, const SIMT_GRID_CONSTANT TensorMap) { \
    MultiplyRegisters<kBug ? Registers::k##name : Registers::kRight>(b);       \
  }
TESSERA_REGISTERS_CONTROL(Changed)
TESSERA_REGISTERS_CONTROL(Unfenced)
TESSERA_REGISTERS_CONTROL(NoSwizzle)

// A block of two warps.
template <bool kBug>
SIMT_KERNEL(64, 1)
WgmmaHalfAGroup(ControlBuffers b, const SIMT_GRID_CONSTANT TensorMap) {
  if (kBug) ptx::WgmmaFence();
  b.out[threadIdx.x] = 0;
}

constexpr KernelControl kControls[] = {
    TESSERA_CONTROL(WgmmaNoFence, 1, kThreads, sizeof(Tiles), "without wgmma.fence", false),
    TESSERA_CONTROL(WgmmaNoProxyFence, 1, kThreads, sizeof(Tiles), "fence.proxy.async", false),
    TESSERA_CONTROL(WgmmaNoWait, 1, kThreads, sizeof(Tiles), "wgmma", false),
    TESSERA_CONTROL(WgmmaTouched, 1, kThreads, sizeof(Tiles), "accumulators were touched", false),
    TESSERA_CONTROL(WgmmaOverwritten, 1, kThreads, sizeof(Tiles), "race on shared", true),
    TESSERA_CONTROL(WgmmaNoBarrier, 1, kThreads, sizeof(Tiles), "shared offset", false),
    TESSERA_CONTROL(WgmmaThreeWarps, 1, kThreads, sizeof(Tiles), "deadlock", false),
    TESSERA_CONTROL(WgmmaSwizzle, 1, kThreads, sizeof(Tiles), "a swizzle other than", false),
    TESSERA_CONTROL(WgmmaOperands, 1, kThreads, sizeof(Tiles), "different wgmma operands", false),
    TESSERA_CONTROL(WgmmaInstructions, 1, kThreads, sizeof(Tiles), "the threads of a warpgroup",
                    false),
    TESSERA_CONTROL(WgmmaChanged, 1, kThreads, sizeof(Tiles), "changed behind wgmma.fence", false),
    TESSERA_CONTROL(WgmmaNeverWaited, 1, kThreads, sizeof(Tiles), "wgmma in flight", false),
    TESSERA_CONTROL(WgmmaRegistersChanged, 1, kThreads, sizeof(Tiles),
                    "first operand changed while wgmma was in flight", false),
    TESSERA_CONTROL(WgmmaRegistersUnfenced, 1, kThreads, sizeof(Tiles),
                    "first operand changed behind wgmma.fence", false),
    TESSERA_CONTROL(WgmmaRegistersNoSwizzle, 1, kThreads, sizeof(Tiles), "a swizzle other than",
                    false),
    TESSERA_CONTROL(WgmmaHalfAGroup, 1, 64, 0, "needs a whole warpgroup", false),
};

}  // namespace

ControlGroup WgmmaControls() { return {kControls, sizeof(kControls) / sizeof(kControls[0])}; }

}  // namespace tessera::cuda
