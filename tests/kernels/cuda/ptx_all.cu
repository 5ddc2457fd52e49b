// One kernel for each function of ptx.h, named after it, for ptx_test.py: nvcc assembles each asm
// text for each architecture, and what it makes of it is compared with ptx_golden.txt. Never run.
#include "kernels/cuda/simt/ptx.h"
#include "kernels/cuda/simt/simt.h"

namespace tessera::simt {

struct CaseShared {
  alignas(1024) unsigned char bytes[4096];
  uint64_t wide;
  uint32_t word;
};

#define SIMT_CASE(name, ...)                                                                     \
  SIMT_KERNEL(128, 1)                                                                            \
  name##Case(uint32_t* p, uint64_t* w, const uint32_t* q,                                        \
             const SIMT_GRID_CONSTANT TensorMap map) {                                           \
    CaseShared& s = SharedMemory<CaseShared>();                                                  \
    uint32_t r[4] = {q[0], q[1], q[2], q[3]};                                                    \
    __VA_ARGS__;                                                                                 \
    p[0] = r[0] + r[1] + r[2] + r[3] + s.word + static_cast<uint32_t>(s.wide + *w) + s.bytes[0]; \
    static_cast<void>(map);                                                                      \
  }

SIMT_CASE(SharedAddress, r[0] = ptx::SharedAddress(&s.word))
SIMT_CASE(NamedBarrierSync, ptx::NamedBarrierSync(2, 64))
SIMT_CASE(NamedBarrierArrive, ptx::NamedBarrierArrive(1, 128))
SIMT_CASE(NanoSleep, ptx::NanoSleep(20))
SIMT_CASE(Exp2, r[0] = BitsOf(ptx::Exp2(FloatBits(r[0]))))
SIMT_CASE(AtomicAddRelaxed, r[0] = ptx::AtomicAddRelaxed(p, r[1]); *w = ptx::AtomicAddRelaxed(w, 7))
SIMT_CASE(AtomicMaxRelaxed, r[0] = ptx::AtomicMaxRelaxed(p, r[1]); *w = ptx::AtomicMaxRelaxed(w, 7))
SIMT_CASE(AtomicOrRelaxed, r[0] = ptx::AtomicOrRelaxed(p, r[1]))
SIMT_CASE(AtomicExchangeRelaxed, r[0] = ptx::AtomicExchangeRelaxed(p, r[1]))
SIMT_CASE(AtomicAddShared, r[0] = ptx::AtomicAddShared(&s.word, r[1]);
          *w = ptx::AtomicAddShared(&s.wide, 7))
SIMT_CASE(AtomicMaxShared, r[0] = ptx::AtomicMaxShared(&s.word, r[1]))
SIMT_CASE(AtomicOrShared, r[0] = ptx::AtomicOrShared(&s.word, r[1]))
SIMT_CASE(AtomicAddAcqRel, r[0] = ptx::AtomicAddAcqRel(p, r[1]))
SIMT_CASE(LoadAcquire, r[0] = ptx::LoadAcquire(q))
SIMT_CASE(StoreRelease, ptx::StoreRelease(p, r[1]))
SIMT_CASE(LoadAcquireSystem, r[0] = ptx::LoadAcquireSystem(q))
SIMT_CASE(StoreReleaseSystem, ptx::StoreReleaseSystem(p, r[1]))
SIMT_CASE(GridDependencyWait, ptx::GridDependencyWait())
SIMT_CASE(GridDependencyLaunch, ptx::GridDependencyLaunch())
SIMT_CASE(CpAsync16, ptx::CpAsync16(s.bytes, q, r[0]))
SIMT_CASE(CpAsyncCommit, ptx::CpAsyncCommit())
SIMT_CASE(CpAsyncWait, ptx::CpAsyncWait<1>())
SIMT_CASE(LdMatrixX4, ptx::LdMatrixX4(r, s.bytes))
SIMT_CASE(LdMatrixX4Trans, ptx::LdMatrixX4Trans(r, s.bytes))

SIMT_DEVICE float Sum(const float (&d)[4]) { return d[0] + d[1] + d[2] + d[3]; }

SIMT_CASE(MmaBf16, float d[4] = {}; ptx::MmaBf16(d, r, r[1], r[2]); r[0] = BitsOf(Sum(d)))
SIMT_CASE(MmaS8, int d[4] = {}; ptx::MmaS8(d, r, r[1], r[2]); r[0] = d[0] + d[1] + d[2] + d[3])
#if __CUDA_ARCH__ >= 890
SIMT_CASE(MmaE4m3, float d[4] = {}; ptx::MmaE4m3(d, r, r[1], r[2]); r[0] = BitsOf(Sum(d)))
#endif

#if __CUDA_ARCH__ >= 900
SIMT_CASE(MBarrierInit, ptx::MBarrierInit(&s.wide, r[0]))
SIMT_CASE(FenceBarrierInit, ptx::FenceBarrierInit())
SIMT_CASE(FenceProxyAsync, ptx::FenceProxyAsync())
SIMT_CASE(MBarrierArrive, ptx::MBarrierArrive(&s.wide))
SIMT_CASE(MBarrierArriveExpectTx, ptx::MBarrierArriveExpectTx(&s.wide, r[0]))
SIMT_CASE(MBarrierArriveRemote, ptx::MBarrierArriveRemote(&s.wide, 1))
SIMT_CASE(MBarrierTryWait, r[0] = ptx::MBarrierTryWait(&s.wide, r[0]) ? 1 : 0)
SIMT_CASE(PrefetchTensorMap, ptx::PrefetchTensorMap(&map))
SIMT_CASE(FenceTensorMap, ptx::FenceTensorMap(reinterpret_cast<const TensorMap*>(w)))
SIMT_CASE(TmaLoad2D, ptx::TmaLoad2D(s.bytes, &map, &s.wide, r[0], r[1]))
SIMT_CASE(TmaLoad3D, ptx::TmaLoad3D(s.bytes, &map, &s.wide, r[0], r[1], r[2]))
SIMT_CASE(ClusterRank, r[0] = ptx::ClusterRank())
SIMT_CASE(ClusterArrive, ptx::ClusterArrive())
SIMT_CASE(ClusterWait, ptx::ClusterWait())
SIMT_CASE(PeerShared, r[0] = *ptx::PeerShared(&s.word, 1))
#endif

#ifdef __CUDA_ARCH_FEAT_SM90_ALL
// The assembler puts more instructions around a fence, a product or a wait that stands alone.
template <int kRegisters>
SIMT_DEVICE uint32_t Product(unsigned char* tile, bool accumulate) {
  float d[kRegisters];
  ptx::WgmmaFenceOperand(d);
  ptx::WgmmaFence();
  ptx::Wgmma(d, ptx::WgmmaDescriptor(tile), ptx::WgmmaDescriptor(tile + 64), accumulate);
  ptx::WgmmaCommit();
  ptx::WgmmaWait<0>(d);
  uint32_t sum = 0;
  for (float value : d) sum += BitsOf(value);
  return sum;
}
template <int kRegisters>
SIMT_DEVICE uint32_t ProductOfRegisters(uint32_t (&a)[1][4], unsigned char* panels) {
  float d[kRegisters] = {};
  ptx::WgmmaFenceOperand(d);
  ptx::WgmmaFenceOperand(a);
  ptx::WgmmaFence();
  ptx::WgmmaPanels(d, a[0], ptx::WgmmaPanelsDescriptor(panels, 2048));
  ptx::WgmmaCommit();
  ptx::WgmmaWait<0>(d);
  ptx::WgmmaFenceOperand(a);
  uint32_t sum = 0;
  for (float value : d) sum += BitsOf(value);
  return sum;
}
SIMT_CASE(WgmmaN8, r[0] = Product<4>(s.bytes, r[0] != 0))
SIMT_CASE(WgmmaN16, r[0] = Product<8>(s.bytes, r[0] != 0))
SIMT_CASE(WgmmaN32, r[0] = Product<16>(s.bytes, r[0] != 0))
SIMT_CASE(WgmmaN64, r[0] = Product<32>(s.bytes, r[0] != 0))
SIMT_CASE(WgmmaN128, r[0] = Product<64>(s.bytes, r[0] != 0))
SIMT_CASE(WgmmaPanelsN64, uint32_t a[1][4] = {{r[0], r[1], r[2], r[3]}};
          r[0] = ProductOfRegisters<32>(a, s.bytes))
SIMT_CASE(WgmmaPanelsN128, uint32_t a[1][4] = {{r[0], r[1], r[2], r[3]}};
          r[0] = ProductOfRegisters<64>(a, s.bytes))
// Later architectures without an "a" warn that it is slow.
SIMT_CASE(TmaMulticast2D, ptx::TmaMulticast2D(s.bytes, &map, &s.wide, r[0], r[1], 3))
SIMT_CASE(GiveBackRegisters, ptx::GiveBackRegisters<40>())
SIMT_CASE(TakeRegisters, ptx::TakeRegisters<104>())
#endif

}  // namespace tessera::simt
