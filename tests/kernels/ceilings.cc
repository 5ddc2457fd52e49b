#include "tests/kernels/ceilings.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <functional>
#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "kernels/core/thread_pool.h"

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

uint64_t Read(const uint64_t* data, int64_t count) {
  uint64_t sums[8] = {};
  for (int64_t i = 0; i < count; i += 8) {
    for (int lane = 0; lane < 8; ++lane) sums[lane] ^= data[i + lane];
  }
  uint64_t all = 0;
  for (uint64_t sum : sums) all ^= sum;
  return all;
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
#endif

// Returns the floating-point operations done.
double MultiplyAdd(int64_t rounds) {
#if defined(__x86_64__)
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

}  // namespace

Ceilings MeasureCeilings(int threads) {
  constexpr int64_t kWords = int64_t{32} << 20;  // 256 MiB
  constexpr int64_t kRounds = 4000000;
  ThreadPool pool(threads);
  Ceilings ceilings;
  {
    std::vector<uint64_t> memory(kWords, 1);
    const int64_t share = kWords / threads / 8 * 8;
    const double seconds = BestSeconds(5, [&] {
      pool.ParallelFor(
          threads, [&](int64_t i) { sink.fetch_add(Read(memory.data() + i * share, share)); },
          Schedule::kStatic);
    });
    ceilings.bytes_per_second = static_cast<double>(share * threads) * 8 / seconds;
  }
  std::vector<double> operations(threads);
  const double seconds = BestSeconds(3, [&] {
    pool.ParallelFor(
        threads, [&](int64_t i) { operations[i] = MultiplyAdd(kRounds); }, Schedule::kStatic);
  });
  for (double count : operations) ceilings.flops_per_second += count / seconds;
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
