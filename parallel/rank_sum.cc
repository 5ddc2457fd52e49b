#include "parallel/rank_sum.h"

#include <algorithm>
#include <cstring>

// The loops below are compiled twice: wider vectors than 32 bytes gain nothing, memory is slower.
#define TESSERA_INLINE [[gnu::always_inline]] inline

namespace tessera {
namespace {

// Small enough to stay in the first-level cache, a multiple of every vector width.
constexpr int64_t kBlock = 512;

TESSERA_INLINE void Load(const char* source, int64_t at, int64_t n, DType dtype,
                         float* __restrict to) {
  if (dtype == DType::kF32) {
    std::memcpy(to, source + at * 4, n * 4);
    return;
  }
  const auto* from = reinterpret_cast<const uint16_t*>(source) + at;
  for (int64_t i = 0; i < n; ++i) to[i] = BF16ToFloat(from[i]);
}

TESSERA_INLINE void Add(const char* source, int64_t at, int64_t n, DType dtype,
                        float* __restrict to) {
  if (dtype == DType::kF32) {
    const auto* from = reinterpret_cast<const float*>(source) + at;
    for (int64_t i = 0; i < n; ++i) to[i] += from[i];
    return;
  }
  const auto* from = reinterpret_cast<const uint16_t*>(source) + at;
  for (int64_t i = 0; i < n; ++i) to[i] += BF16ToFloat(from[i]);
}

TESSERA_INLINE void Round(const float* __restrict from, int64_t n, uint16_t* __restrict to) {
  for (int64_t i = 0; i < n; ++i) to[i] = FloatToBF16(from[i]);
}

TESSERA_INLINE void SumInBlocks(const RankSumArgs& args) {
  alignas(64) float sum[kBlock];
  alignas(64) uint16_t rounded[kBlock];
  const auto element = static_cast<int64_t>(SizeOf(args.dtype));
  for (int64_t done = 0; done < args.count; done += kBlock) {
    const int64_t n = std::min(kBlock, args.count - done);
    const int64_t at = args.begin + done;
    Load(args.inputs[0], at, n, args.dtype, sum);
    for (size_t r = 1; r < args.inputs.size(); ++r) Add(args.inputs[r], at, n, args.dtype, sum);
    const void* result = sum;
    if (args.dtype == DType::kBF16) {
      Round(sum, n, rounded);
      result = rounded;
    }
    for (char* output : args.outputs) std::memcpy(output + at * element, result, n * element);
  }
}

void SumBaseline(const RankSumArgs& args) { SumInBlocks(args); }

using Sum = void (*)(const RankSumArgs&);

#if defined(__x86_64__)
[[gnu::target("avx2")]] void SumAvx2(const RankSumArgs& args) { SumInBlocks(args); }

Sum WidestSum() { return __builtin_cpu_supports("avx2") != 0 ? SumAvx2 : SumBaseline; }
#else
Sum WidestSum() { return SumBaseline; }
#endif

}  // namespace

void SumRanks(const RankSumArgs& args) {
  static const Sum sum = WidestSum();
  sum(args);
}

}  // namespace tessera
