// The dialect that kernel sources are written in. Under nvcc it is CUDA; under any other C++20
// compiler the same words run on the CPU, checked (kernels/cuda/emulation). Kernels use only these
// words, those of ptx.h and SIMT_LAUNCH of launch.h: no other CUDA header, no inline assembly, no
// static __shared__ variables. tests/simt_dialect.py holds the rules.
//
// Three compilations read this file: nvcc; a C++ compiler with SIMT_EMULATED, for the emulator; and
// a C++ compiler without it, for host code that calls the launchers that nvcc has compiled.
#ifndef TESSERA_KERNELS_CUDA_SIMT_SIMT_H_
#define TESSERA_KERNELS_CUDA_SIMT_SIMT_H_

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

#if defined(__CUDACC__)

#define SIMT_DEVICE __device__ __forceinline__
#define SIMT_HOST_DEVICE __host__ __device__ __forceinline__
// A kernel for blocks of at most `threads` threads, of which `blocks` shall fit a multiprocessor.
#define SIMT_KERNEL(threads, blocks) __global__ void __launch_bounds__(threads, blocks)
#define SIMT_GRID_CONSTANT __grid_constant__

#else

#define SIMT_DEVICE inline
#define SIMT_HOST_DEVICE inline
#if defined(SIMT_EMULATED) && defined(__GNUC__) && !defined(__clang__) && defined(__x86_64__)
// The emulator reads the bound from the kernel's entry: a no-operation for every warp.
#define SIMT_KERNEL(threads, blocks) \
  __attribute__((patchable_function_entry(((threads) + 31) / 32, 0))) void
#else
#define SIMT_KERNEL(threads, blocks) void
#endif
#define SIMT_GRID_CONSTANT

#endif

#ifdef SIMT_EMULATED
#include "kernels/cuda/emulation/device_words.h"
#endif

namespace tessera::simt {

inline constexpr uint32_t kFullMask = 0xffffffffU;
inline constexpr int kWarpSize = 32;

// bfloat16 as bits; arithmetic happens in fp32.
struct Bf16 {
  uint16_t bits;
};

SIMT_HOST_DEVICE float FloatBits(uint32_t bits) {
#ifdef __CUDA_ARCH__
  return __uint_as_float(bits);
#else
  return __builtin_bit_cast(float, bits);
#endif
}
SIMT_HOST_DEVICE uint32_t BitsOf(float value) {
#ifdef __CUDA_ARCH__
  return __float_as_uint(value);
#else
  return __builtin_bit_cast(uint32_t, value);
#endif
}
SIMT_HOST_DEVICE double DoubleBits(uint64_t bits) {
#ifdef __CUDA_ARCH__
  return __longlong_as_double(static_cast<long long>(bits));
#else
  return __builtin_bit_cast(double, bits);
#endif
}
SIMT_HOST_DEVICE uint64_t BitsOf(double value) {
#ifdef __CUDA_ARCH__
  return static_cast<uint64_t>(__double_as_longlong(value));
#else
  return __builtin_bit_cast(uint64_t, value);
#endif
}

SIMT_HOST_DEVICE float LowBf16(uint32_t pair) { return FloatBits(pair << 16); }
SIMT_HOST_DEVICE float HighBf16(uint32_t pair) { return FloatBits(pair & 0xffff0000U); }
SIMT_HOST_DEVICE float ToFloat(Bf16 value) { return FloatBits(uint32_t{value.bits} << 16); }

// Rounds to nearest, ties to even; NaN stays NaN.
SIMT_HOST_DEVICE uint16_t RoundToBf16(float value) {
  const uint32_t bits = BitsOf(value);
  if ((bits & 0x7fffffffU) > 0x7f800000U) return 0x7fff;
  return static_cast<uint16_t>((bits + 0x7fffU + ((bits >> 16) & 1U)) >> 16);
}
SIMT_HOST_DEVICE Bf16 ToBf16(float value) { return Bf16{RoundToBf16(value)}; }

// Two bf16 in one word, as RoundToBf16 rounds; low is the first in memory.
SIMT_HOST_DEVICE uint32_t PackBf16(float low, float high) {
#ifdef __CUDA_ARCH__
  uint32_t pair;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  return pair;
#else
  return uint32_t{RoundToBf16(low)} | uint32_t{RoundToBf16(high)} << 16;
#endif
}

template <typename T>
SIMT_HOST_DEVICE constexpr T CeilDiv(T a, T b) {
  return (a + b - 1) / b;
}

#if defined(__CUDACC__)

// The block's dynamic shared memory, aligned to 1024 bytes (what 128-byte swizzles need).
template <typename T>
__device__ __forceinline__ T& SharedMemory() {
  extern __shared__ __align__(1024) unsigned char simt_shared_memory[];
  return *reinterpret_cast<T*>(simt_shared_memory);
}

// One access of 16 or 8 bytes; the address must be aligned to as many. The emulator checks that,
// which it cannot do for a plain access to a struct: compilers split those.
__device__ __forceinline__ uint4 Load16(const void* p) { return *static_cast<const uint4*>(p); }
__device__ __forceinline__ uint2 Load8(const void* p) { return *static_cast<const uint2*>(p); }
__device__ __forceinline__ void Store16(void* p, uint4 v) { *static_cast<uint4*>(p) = v; }
__device__ __forceinline__ void Store8(void* p, uint2 v) { *static_cast<uint2*>(p) = v; }

#elif defined(SIMT_EMULATED)

template <typename T>
T& SharedMemory() {
  return *static_cast<T*>(emulation::SharedBase(sizeof(T), alignof(T)));
}

inline uint4 Load16(const void* p) {
  uint4 value;
  emulation::LoadVector(p, &value, sizeof(value));
  return value;
}
inline uint2 Load8(const void* p) {
  uint2 value;
  emulation::LoadVector(p, &value, sizeof(value));
  return value;
}
inline void Store16(void* p, uint4 value) { emulation::StoreVector(p, &value, sizeof(value)); }
inline void Store8(void* p, uint2 value) { emulation::StoreVector(p, &value, sizeof(value)); }

#endif

// The mathematics that kernels may use. Sums and products are not contracted by either compiler
// (-ffp-contract=off, -fmad=false): a kernel that wants a fused multiply-add says Fma.
#if defined(__CUDACC__) || defined(SIMT_EMULATED)
#ifdef __CUDA_ARCH__
#define SIMT_MATH(device, emulated) device
#else
#define SIMT_MATH(device, emulated) emulated
#endif
SIMT_DEVICE float Fma(float a, float b, float c) {
  return SIMT_MATH(__fmaf_rn(a, b, c), __builtin_fmaf(a, b, c));
}
SIMT_DEVICE double Fma(double a, double b, double c) {
  return SIMT_MATH(__fma_rn(a, b, c), __builtin_fma(a, b, c));
}
SIMT_DEVICE float Sqrt(float x) { return SIMT_MATH(__fsqrt_rn(x), __builtin_sqrtf(x)); }
SIMT_DEVICE float Abs(float x) { return SIMT_MATH(fabsf(x), __builtin_fabsf(x)); }
SIMT_DEVICE double Abs(double x) { return SIMT_MATH(fabs(x), __builtin_fabs(x)); }
SIMT_DEVICE float Floor(float x) { return SIMT_MATH(floorf(x), __builtin_floorf(x)); }
SIMT_DEVICE double Floor(double x) { return SIMT_MATH(floor(x), __builtin_floor(x)); }
// Within 1 to 2 ulp on GPUs; not the same bits as on a CPU.
SIMT_DEVICE float Exp(float x) { return SIMT_MATH(expf(x), __builtin_expf(x)); }
SIMT_DEVICE float Log(float x) { return SIMT_MATH(logf(x), __builtin_logf(x)); }
SIMT_DEVICE double Exp(double x) { return SIMT_MATH(exp(x), __builtin_exp(x)); }
SIMT_DEVICE double Log(double x) { return SIMT_MATH(log(x), __builtin_log(x)); }
SIMT_DEVICE float Sin(float x) { return SIMT_MATH(sinf(x), __builtin_sinf(x)); }
SIMT_DEVICE float Cos(float x) { return SIMT_MATH(cosf(x), __builtin_cosf(x)); }
// 1 / sqrt(x), both correctly rounded.
SIMT_DEVICE float Rsqrt(float x) { return 1.0F / Sqrt(x); }
#undef SIMT_MATH
#endif

}  // namespace tessera::simt

#endif  // TESSERA_KERNELS_CUDA_SIMT_SIMT_H_
