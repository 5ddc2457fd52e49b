// One function per PTX instruction that kernels use. Each has two bodies: inline assembly for nvcc
// and, in kernels/cuda/emulation, what NVIDIA's "Parallel Thread Execution ISA" says it does. The
// architecture behind a group is the first one that has it.
#ifndef TESSERA_KERNELS_CUDA_SIMT_PTX_H_
#define TESSERA_KERNELS_CUDA_SIMT_PTX_H_

#include "kernels/cuda/simt/simt.h"
#include "kernels/cuda/simt/tensor_map.h"

// It takes SIMT_BODY for no part of a function.
// clang-format off

#ifdef __CUDACC__
#define SIMT_BODY(...) { __VA_ARGS__ }
#else
#define SIMT_BODY(...) ;
#endif

namespace tessera::simt {

namespace ptx {

#ifdef __CUDACC__
#define SIMT_PTX __device__ __forceinline__
#else
#define SIMT_PTX
#endif

// --- addresses, barriers, sleep ---------------------------------------------------------------

SIMT_PTX uint32_t SharedAddress(const void* pointer)
    SIMT_BODY(return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));)

SIMT_PTX void NamedBarrierSync(int id, int threads)
    SIMT_BODY(asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");)

SIMT_PTX void NamedBarrierArrive(int id, int threads)
    SIMT_BODY(asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory");)

SIMT_PTX void NanoSleep(uint32_t nanoseconds) SIMT_BODY(__nanosleep(nanoseconds);)

// 2^x, within 2 ulp.
SIMT_PTX float Exp2(float x)
    SIMT_BODY(float y; asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x)); return y;)

// --- atomics ----------------------------------------------------------------------------------

// Read-modify-write operations return what was there. "Relaxed" orders nothing else; the address
// may be of global or of shared memory, and all threads of this GPU may take part.
#define SIMT_ATOMIC(operation, type, constraint)                          \
  type old;                                                               \
  asm volatile("atom." operation " %0, [%1], %2;"                         \
               : "=" constraint(old)                                      \
               : "l"(address), constraint(value)                          \
               : "memory");                                               \
  return old;
#define SIMT_SHARED_ATOMIC(operation, type, constraint)                   \
  type old;                                                               \
  asm volatile("atom.relaxed.cta.shared::cta." operation " %0, [%1], %2;" \
               : "=" constraint(old)                                      \
               : "r"(SharedAddress(address)), constraint(value)           \
               : "memory");                                               \
  return old;
SIMT_PTX uint32_t AtomicAddRelaxed(uint32_t* address, uint32_t value)
    SIMT_BODY(SIMT_ATOMIC("relaxed.gpu.add.u32", uint32_t, "r"))
SIMT_PTX uint64_t AtomicAddRelaxed(uint64_t* address, uint64_t value)
    SIMT_BODY(SIMT_ATOMIC("relaxed.gpu.add.u64", uint64_t, "l"))
SIMT_PTX uint32_t AtomicMaxRelaxed(uint32_t* address, uint32_t value)
    SIMT_BODY(SIMT_ATOMIC("relaxed.gpu.max.u32", uint32_t, "r"))
SIMT_PTX uint64_t AtomicMaxRelaxed(uint64_t* address, uint64_t value)
    SIMT_BODY(SIMT_ATOMIC("relaxed.gpu.max.u64", uint64_t, "l"))
SIMT_PTX uint32_t AtomicOrRelaxed(uint32_t* address, uint32_t value)
    SIMT_BODY(SIMT_ATOMIC("relaxed.gpu.or.b32", uint32_t, "r"))
SIMT_PTX uint32_t AtomicExchangeRelaxed(uint32_t* address, uint32_t value)
    SIMT_BODY(SIMT_ATOMIC("relaxed.gpu.exch.b32", uint32_t, "r"))
// On shared memory of this block, by its threads.
SIMT_PTX uint32_t AtomicAddShared(uint32_t* address, uint32_t value)
    SIMT_BODY(SIMT_SHARED_ATOMIC("add.u32", uint32_t, "r"))
SIMT_PTX uint64_t AtomicAddShared(uint64_t* address, uint64_t value)
    SIMT_BODY(SIMT_SHARED_ATOMIC("add.u64", uint64_t, "l"))
SIMT_PTX uint32_t AtomicMaxShared(uint32_t* address, uint32_t value)
    SIMT_BODY(SIMT_SHARED_ATOMIC("max.u32", uint32_t, "r"))
SIMT_PTX uint32_t AtomicOrShared(uint32_t* address, uint32_t value)
    SIMT_BODY(SIMT_SHARED_ATOMIC("or.b32", uint32_t, "r"))
// Acquire and release, for all threads of this GPU.
SIMT_PTX uint32_t AtomicAddAcqRel(uint32_t* address, uint32_t value)
    SIMT_BODY(SIMT_ATOMIC("acq_rel.gpu.add.u32", uint32_t, "r"))
SIMT_PTX uint32_t LoadAcquire(const uint32_t* address) SIMT_BODY(
    uint32_t value;
    asm volatile("ld.acquire.gpu.u32 %0, [%1];" : "=r"(value) : "l"(address) : "memory");
    return value;)
SIMT_PTX void StoreRelease(uint32_t* address, uint32_t value) SIMT_BODY(
    asm volatile("st.release.gpu.u32 [%0], %1;" ::"l"(address), "r"(value) : "memory");)
// The same, for other GPUs and the host too.
SIMT_PTX uint32_t LoadAcquireSystem(const uint32_t* address) SIMT_BODY(
    uint32_t value;
    asm volatile("ld.acquire.sys.u32 %0, [%1];" : "=r"(value) : "l"(address) : "memory");
    return value;)
SIMT_PTX void StoreReleaseSystem(uint32_t* address, uint32_t value) SIMT_BODY(
    asm volatile("st.release.sys.u32 [%0], %1;" ::"l"(address), "r"(value) : "memory");)

// --- programmatic dependent launch -------------------------------------------------------------

// Before sm_90 a kernel starts when the one before it has ended.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
#define SIMT_GRID_CONTROL(what) asm volatile("griddepcontrol." what ";" ::: "memory");
#else
#define SIMT_GRID_CONTROL(what)
#endif
SIMT_PTX void GridDependencyWait() SIMT_BODY(SIMT_GRID_CONTROL("wait"))
SIMT_PTX void GridDependencyLaunch() SIMT_BODY(SIMT_GRID_CONTROL("launch_dependents"))

// --- cp.async (sm_80) --------------------------------------------------------------------------

// 16 bytes; the ones at and beyond `valid` become zeros.
SIMT_PTX void CpAsync16(void* shared, const void* global, uint32_t valid = 16) SIMT_BODY(
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;"
                 ::"r"(SharedAddress(shared)), "l"(global), "r"(valid) : "memory");)
SIMT_PTX void CpAsyncCommit() SIMT_BODY(asm volatile("cp.async.commit_group;" ::: "memory");)
#ifdef __CUDACC__
template <int kPending>
__device__ __forceinline__ void CpAsyncWait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}
#else
void CpAsyncWaitGroups(int pending);
template <int kPending>
void CpAsyncWait() {
  CpAsyncWaitGroups(kPending);
}
#endif

// --- ldmatrix and mma.sync (sm_80) -------------------------------------------------------------

// Lane i gives the address of row i % 8 of matrix i / 8.
SIMT_PTX void LdMatrixX4(uint32_t (&r)[4], const void* row) SIMT_BODY(
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(SharedAddress(row)) : "memory");)
SIMT_PTX void LdMatrixX4Trans(uint32_t (&r)[4], const void* row) SIMT_BODY(
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(SharedAddress(row)) : "memory");)

// d += a b; a is 16 x 16, b is 16 x 8.
SIMT_PTX void MmaBf16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) SIMT_BODY(
    asm(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, "
        "{%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));)
// d += a b; a is 16 x 32, b is 32 x 8.
SIMT_PTX void MmaS8(int (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) SIMT_BODY(
    asm(
        "mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, "
        "{%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));)
// sm_89 and later.
SIMT_PTX void MmaE4m3(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) SIMT_BODY(
    asm(
        "mma.sync.aligned.m16n8k32.row.col.f32.e4m3.e4m3.f32 {%0, %1, %2, %3}, "
        "{%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));)

// --- mbarrier and fences (sm_90) -----------------------------------------------------------------

SIMT_PTX void MBarrierInit(uint64_t* barrier, uint32_t count) SIMT_BODY(
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;"
                 ::"r"(SharedAddress(barrier)), "r"(count) : "memory");)
SIMT_PTX void FenceBarrierInit() SIMT_BODY(
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");)
SIMT_PTX void FenceProxyAsync() SIMT_BODY(
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");)
SIMT_PTX void MBarrierArrive(uint64_t* barrier) SIMT_BODY(
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];"
                 ::"r"(SharedAddress(barrier)) : "memory");)
SIMT_PTX void MBarrierArriveExpectTx(uint64_t* barrier, uint32_t bytes) SIMT_BODY(
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;"
                 ::"r"(SharedAddress(barrier)), "r"(bytes) : "memory");)
// At the same barrier of block `rank` of the cluster. Relaxed: it tells that what wgmma and TMA did
// for this thread, and it has waited for, is over, and orders no other accesses (a release would
// wait for all stores of the thread to reach the GPU's memory).
SIMT_PTX void MBarrierArriveRemote(uint64_t* barrier, uint32_t rank) SIMT_BODY(
    asm volatile(
        "{\n.reg .b32 peer;\n"
        "mapa.shared::cluster.u32 peer, %0, %1;\n"
        "mbarrier.arrive.relaxed.cluster.shared::cluster.b64 _, [peer];\n}"
        ::"r"(SharedAddress(barrier)), "r"(rank) : "memory");)
// May return false before the phase is complete.
SIMT_PTX bool MBarrierTryWait(uint64_t* barrier, uint32_t parity) SIMT_BODY(
    uint32_t done;
    asm volatile(
        "{\n.reg .pred p;\n"
        "mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n"
        "selp.u32 %0, 1, 0, p;\n}"
        : "=r"(done) : "r"(SharedAddress(barrier)), "r"(parity) : "memory");
    return done != 0;)
SIMT_DEVICE void MBarrierWait(uint64_t* barrier, uint32_t parity) {
  while (!MBarrierTryWait(barrier, parity)) {
  }
}

// --- TMA (sm_90) ---------------------------------------------------------------------------------

SIMT_PTX void PrefetchTensorMap(const TensorMap* map) SIMT_BODY(
    asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory");)
// Before a thread uses a map that lies in global memory, where copies have written it.
SIMT_PTX void FenceTensorMap(const TensorMap* map) SIMT_BODY(
    asm volatile("fence.proxy.tensormap::generic.acquire.sys [%0], 128;" ::"l"(map) : "memory");)
// One thread; coordinates innermost first. The box lands at `shared`, its bytes on `barrier`.
SIMT_PTX void TmaLoad2D(void* shared, const TensorMap* map, uint64_t* barrier, int x,
                        int y) SIMT_BODY(
    asm volatile(
        "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes "
        "[%0], [%1, {%3, %4}], [%2];"
        ::"r"(SharedAddress(shared)), "l"(map), "r"(SharedAddress(barrier)), "r"(x), "r"(y)
        : "memory");)
SIMT_PTX void TmaLoad3D(void* shared, const TensorMap* map, uint64_t* barrier, int x, int y,
                        int z) SIMT_BODY(
    asm volatile(
        "cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes "
        "[%0], [%1, {%3, %4, %5}], [%2];"
        ::"r"(SharedAddress(shared)), "l"(map), "r"(SharedAddress(barrier)), "r"(x), "r"(y), "r"(z)
        : "memory");)

// The same box to the same place in every block of the cluster whose bit is set in `ranks`, its bytes
// on the barrier of each; it is read once.
SIMT_PTX void TmaMulticast2D(void* shared, const TensorMap* map, uint64_t* barrier, int x, int y,
                             uint32_t ranks) SIMT_BODY(
    asm volatile(
        "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes"
        ".multicast::cluster [%0], [%1, {%3, %4}], [%2], %5;"
        ::"r"(SharedAddress(shared)), "l"(map), "r"(SharedAddress(barrier)), "r"(x), "r"(y),
          "h"(static_cast<uint16_t>(ranks)) : "memory");)

// --- wgmma (sm_90a) ------------------------------------------------------------------------------

// K-major operand, 128-byte swizzle, rows of 128 bytes: 8 rows are 1024 bytes.
SIMT_DEVICE uint64_t WgmmaDescriptor(const void* shared) {
  const uint64_t address = SharedAddress(shared);
  return ((address & 0x3ffffU) >> 4) | uint64_t{1} << 16 | uint64_t{1024 >> 4} << 32 |
         uint64_t{1} << 62;
}
// The second operand with its n side by side (MN-major), 128-byte swizzle: rows of 64 columns, one
// row per k, 8 of which are 1024 bytes; every 64 columns lie panel_bytes behind the 64 before.
SIMT_DEVICE uint64_t WgmmaPanelsDescriptor(const void* shared, uint32_t panel_bytes) {
  const uint64_t address = SharedAddress(shared);
  return ((address & 0x3ffffU) >> 4) | uint64_t{panel_bytes >> 4} << 16 |
         uint64_t{1024 >> 4} << 32 | uint64_t{1} << 62;
}

SIMT_PTX void WgmmaFence() SIMT_BODY(
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");)
SIMT_PTX void WgmmaCommit() SIMT_BODY(
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");)

// d (+)= a b; a is 64 x 16, b is 16 x n, d has n / 2 registers per thread: [4 j + 2 half + c] belongs
// to row 16 warp + 8 half + lane / 4 and column 8 j + lane % 4 * 2 + c. accumulate == false ignores
// what d held.
#ifdef __CUDACC__
#define SIMT_R4(d, i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define SIMT_R16(d, i) SIMT_R4(d, i), SIMT_R4(d, i + 4), SIMT_R4(d, i + 8), SIMT_R4(d, i + 12)
__device__ __forceinline__ void WgmmaN8(float (&d)[4], uint64_t a, uint64_t b, bool accumulate) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %6, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 "
      "{%0, %1, %2, %3}, "
      "%4, %5, p, 1, 1, 0, 0;\n}"
      : SIMT_R4(d, 0)
      : "l"(a), "l"(b), "r"(static_cast<int>(accumulate)));
}
__device__ __forceinline__ void WgmmaN16(float (&d)[8], uint64_t a, uint64_t b, bool accumulate) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %10, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n16k16.f32.bf16.bf16 "
      "{%0, %1, %2, %3, %4, %5, %6, %7}, "
      "%8, %9, p, 1, 1, 0, 0;\n}"
      : SIMT_R4(d, 0), SIMT_R4(d, 4)
      : "l"(a), "l"(b), "r"(static_cast<int>(accumulate)));
}
__device__ __forceinline__ void WgmmaN32(float (&d)[16], uint64_t a, uint64_t b, bool accumulate) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %18, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n32k16.f32.bf16.bf16 "
      "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15}, "
      "%16, %17, p, 1, 1, 0, 0;\n}"
      : SIMT_R16(d, 0)
      : "l"(a), "l"(b), "r"(static_cast<int>(accumulate)));
}
__device__ __forceinline__ void WgmmaN64(float (&d)[32], uint64_t a, uint64_t b, bool accumulate) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %34, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 "
      "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, "
      "%17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, "
      "%32, %33, p, 1, 1, 0, 0;\n}"
      : SIMT_R16(d, 0), SIMT_R16(d, 16)
      : "l"(a), "l"(b), "r"(static_cast<int>(accumulate)));
}
__device__ __forceinline__ void WgmmaN128(float (&d)[64], uint64_t a, uint64_t b, bool accumulate) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %66, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 "
      "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, "
      "%17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
      "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, "
      "%47, %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, "
      "%62, %63}, "
      "%64, %65, p, 1, 1, 0, 0;\n}"
      : SIMT_R16(d, 0), SIMT_R16(d, 16), SIMT_R16(d, 32), SIMT_R16(d, 48)
      : "l"(a), "l"(b), "r"(static_cast<int>(accumulate)));
}
// d += a b with a in registers, as MmaBf16 has it for the warp's 16 rows, and b of
// WgmmaPanelsDescriptor. Until it has been waited for, the registers of a belong to it too.
__device__ __forceinline__ void WgmmaPanelsN64(float (&d)[32], const uint32_t (&a)[4], uint64_t b) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %37, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 "
      "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, "
      "%17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, "
      "{%32, %33, %34, %35}, %36, p, 1, 1, 1;\n}"
      : SIMT_R16(d, 0), SIMT_R16(d, 16)
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(1));
}
__device__ __forceinline__ void WgmmaPanelsN128(float (&d)[64], const uint32_t (&a)[4],
                                                uint64_t b) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %69, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 "
      "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, "
      "%17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
      "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, "
      "%47, %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, "
      "%62, %63}, "
      "{%64, %65, %66, %67}, %68, p, 1, 1, 1;\n}"
      : SIMT_R16(d, 0), SIMT_R16(d, 16), SIMT_R16(d, 32), SIMT_R16(d, 48)
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(1));
}
// Keeps the compiler from moving accesses to the accumulators across a WgmmaFence or WgmmaWait.
template <int kRegisters>
__device__ __forceinline__ void WgmmaFenceOperand(float (&d)[kRegisters]) {
#pragma unroll
  for (int i = 0; i < kRegisters; ++i) asm volatile("" : "+f"(d[i])::"memory");
}
// And the registers of first operands.
template <int kFragments>
__device__ __forceinline__ void WgmmaFenceOperand(uint32_t (&a)[kFragments][4]) {
#pragma unroll
  for (int i = 0; i < kFragments * 4; ++i) asm volatile("" : "+r"(a[i / 4][i % 4])::"memory");
}
// Waits until at most kPending groups are in flight. Only WgmmaFenceOperand behind it tells the
// compiler that accumulators may be read from there on.
template <int kPending>
__device__ __forceinline__ void WgmmaWait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
}
template <int kRegisters>
__device__ __forceinline__ void GiveBackRegisters() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kRegisters));
}
template <int kRegisters>
__device__ __forceinline__ void TakeRegisters() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kRegisters));
}
#else
void WgmmaIssue(float* d, int n, uint64_t a, uint64_t b, bool accumulate);
void WgmmaIssueOfRegisters(float* d, int n, const uint32_t* a, uint64_t b);
inline void WgmmaPanelsN64(float (&d)[32], const uint32_t (&a)[4], uint64_t b) {
  WgmmaIssueOfRegisters(d, 64, a, b);
}
inline void WgmmaPanelsN128(float (&d)[64], const uint32_t (&a)[4], uint64_t b) {
  WgmmaIssueOfRegisters(d, 128, a, b);
}
void WgmmaWaitGroups(int pending);
#define SIMT_WGMMA(n)                                                                            \
  inline void WgmmaN##n(float (&d)[(n) / 2], uint64_t a, uint64_t b, bool accumulate) {          \
    WgmmaIssue(d, n, a, b, accumulate);                                                          \
  }
SIMT_WGMMA(8)
SIMT_WGMMA(16)
SIMT_WGMMA(32)
SIMT_WGMMA(64)
SIMT_WGMMA(128)
template <int kPending>
void WgmmaWait() {
  WgmmaWaitGroups(kPending);
}
template <int kRegisters>
void WgmmaFenceOperand(float (&/*d*/)[kRegisters]) {}
template <int kFragments>
void WgmmaFenceOperand(uint32_t (&/*a*/)[kFragments][4]) {}
void SetRegisters(int registers);
template <int kRegisters>
void GiveBackRegisters() {
  SetRegisters(kRegisters);
}
template <int kRegisters>
void TakeRegisters() {
  SetRegisters(kRegisters);
}
#endif

// The one of the above that fits d.
template <int kRegisters>
SIMT_DEVICE void Wgmma(float (&d)[kRegisters], uint64_t a, uint64_t b, bool accumulate) {
  if constexpr (kRegisters == 4) {
    WgmmaN8(d, a, b, accumulate);
  } else if constexpr (kRegisters == 8) {
    WgmmaN16(d, a, b, accumulate);
  } else if constexpr (kRegisters == 16) {
    WgmmaN32(d, a, b, accumulate);
  } else if constexpr (kRegisters == 32) {
    WgmmaN64(d, a, b, accumulate);
  } else {
    WgmmaN128(d, a, b, accumulate);
  }
}
template <int kRegisters>
SIMT_DEVICE void WgmmaPanels(float (&d)[kRegisters], const uint32_t (&a)[4], uint64_t b) {
  if constexpr (kRegisters == 32) {
    WgmmaPanelsN64(d, a, b);
  } else {
    WgmmaPanelsN128(d, a, b);
  }
}
// Waits as above; then the accumulators of what is no longer in flight may be read.
template <int kPending, int kRegisters>
SIMT_DEVICE void WgmmaWait(float (&d)[kRegisters]) {
  WgmmaWait<kPending>();
  WgmmaFenceOperand(d);
}

// --- clusters (sm_90) ----------------------------------------------------------------------------

SIMT_PTX uint32_t ClusterRank() SIMT_BODY(
    uint32_t rank; asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank)); return rank;)
// All threads of a warp together: __syncwarp() comes first where they may have diverged.
SIMT_PTX void ClusterArrive() SIMT_BODY(
    asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");)
SIMT_PTX void ClusterWait() SIMT_BODY(
    asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");)
// The same address in the shared memory of another block of the cluster.
#ifdef __CUDACC__
template <typename T>
__device__ __forceinline__ T* PeerShared(T* pointer, uint32_t rank) {
  uint64_t peer;
  asm volatile("mapa.u64 %0, %1, %2;" : "=l"(peer) : "l"(pointer), "r"(rank));
  return reinterpret_cast<T*>(peer);
}
#else
template <typename T>
T* PeerShared(T* pointer, uint32_t rank) {
  return static_cast<T*>(emulation::MapShared(pointer, rank));
}
#endif

}  // namespace ptx
}  // namespace tessera::simt
// clang-format on

#endif  // TESSERA_KERNELS_CUDA_SIMT_PTX_H_
