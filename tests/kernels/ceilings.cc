#include "tests/kernels/ceilings.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <functional>
#include <numeric>
#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "kernels/core/read_bandwidth.h"
#include "kernels/core/status_macros.h"
#include "kernels/core/thread_pool.h"
#include "kernels/cpu/isa/isa.h"

namespace tessera::test {
namespace {

std::atomic<uint64_t> sink{0};  // Keeps results alive.

double BestSeconds(int repeats, const std::function<void()>& run) {
  double best = HUGE_VAL;
  for (int i = 0; i < repeats; ++i) {
    const auto start = std::chrono::steady_clock::now();
    run();
    const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start;
    best = std::min(best, elapsed.count());
  }
  return best;
}

#if defined(__x86_64__)
__attribute__((target("avx2,fma"))) float MultiplyAddAvx2(int64_t rounds) {
  __m256 sums[12];
  for (__m256& sum : sums) sum = _mm256_set1_ps(1.0F);
  const __m256 a = _mm256_set1_ps(0.999999F);
  const __m256 b = _mm256_set1_ps(1e-7F);
  for (int64_t round = 0; round < rounds; ++round) {
#pragma GCC unroll 12
    for (__m256& sum : sums) sum = _mm256_fmadd_ps(sum, a, b);
  }
  float all = 0;
  for (const __m256& sum : sums) all += _mm256_cvtss_f32(sum);
  return all;
}

__attribute__((target("avx512f"))) float MultiplyAddAvx512(int64_t rounds) {
  __m512 sums[12];
  for (__m512& sum : sums) sum = _mm512_set1_ps(1.0F);
  const __m512 a = _mm512_set1_ps(0.999999F);
  const __m512 b = _mm512_set1_ps(1e-7F);
  for (int64_t round = 0; round < rounds; ++round) {
#pragma GCC unroll 12
    for (__m512& sum : sums) sum = _mm512_fmadd_ps(sum, a, b);
  }
  float all = 0;
  for (const __m512& sum : sums) all += _mm512_cvtss_f32(sum);
  return all;
}

// Returns the floating-point operations done.
__attribute__((target("amx-tile,amx-bf16"))) double MultiplyTiles(int64_t rounds) {
  struct alignas(64) {
    uint8_t palette = 1;
    uint8_t reserved[15] = {};
    uint16_t row_bytes[16] = {};
    uint8_t rows[16] = {};
  } config;
  std::fill_n(config.row_bytes, 8, 64);
  std::fill_n(config.rows, 8, 16);
  asm volatile("" ::: "memory");  // The intrinsic declares less than it reads.
  _tile_loadconfig(&config);
  _tile_zero(4);
  _tile_zero(5);
  _tile_zero(6);
  _tile_zero(7);
  for (int64_t round = 0; round < rounds; ++round) {
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
  }
  _tile_release();
  return static_cast<double>(rounds) * 4 * 16 * 16 * 32 * 2;
}
#endif

bool HasTiles() {
  const std::vector<cpu::Isa> isas = cpu::SupportedIsas();
  return std::find(isas.begin(), isas.end(), cpu::Isa::kAmx) != isas.end();
}

// Returns the floating-point operations done.
double MultiplyAdd(int64_t rounds) {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512f")) {
    sink.fetch_add(static_cast<uint64_t>(MultiplyAddAvx512(rounds)));
    return static_cast<double>(rounds) * 12 * 16 * 2;
  }
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
    sink.fetch_add(static_cast<uint64_t>(MultiplyAddAvx2(rounds)));
    return static_cast<double>(rounds) * 12 * 8 * 2;
  }
#endif
  float sums[16];
  std::fill_n(sums, 16, 1.0F);
  for (int64_t round = 0; round < rounds; ++round) {
    for (float& sum : sums) sum = sum * 0.999999F + 1e-7F;
  }
  for (float sum : sums) sink.fetch_add(static_cast<uint64_t>(sum));
  return static_cast<double>(rounds) * 16 * 2;
}

// Operations per second of all threads, each of which counts its own.
double Rate(ThreadPool& pool, double (*work)(int64_t), int64_t rounds) {
  std::vector<double> operations(pool.num_threads());
  const double seconds = BestSeconds(3, [&] {
    pool.ParallelFor(
        pool.num_threads(), [&](int64_t i) { operations[i] = work(rounds); }, Schedule::kStatic);
  });
  return std::accumulate(operations.begin(), operations.end(), 0.0) / seconds;
}

}  // namespace

Ceilings MeasureCeilings(int threads) {
  ThreadPool pool(threads);
  Ceilings ceilings;
  const absl::StatusOr<double> reads = MeasureReadBandwidth(threads);
  TESSERA_CHECK(reads.ok());
  ceilings.bytes_per_second = *reads;
  ceilings.flops_per_second = Rate(pool, MultiplyAdd, 4000000);
#if defined(__x86_64__)
  if (HasTiles()) ceilings.tile_flops_per_second = Rate(pool, MultiplyTiles, 500000);
#endif
  constexpr int kForks = 2000;
  ceilings.fork_join_seconds = BestSeconds(5,
                                           [&] {
                                             for (int i = 0; i < kForks; ++i) {
                                               pool.ParallelFor(
                                                   threads, [](int64_t) {}, Schedule::kStatic);
                                             }
                                           }) /
                               kForks;
  return ceilings;
}

}  // namespace tessera::test
