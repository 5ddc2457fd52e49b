// Compiled once per instruction set. No templates or inline functions of other headers where it is
// compiled for a newer machine: the linker could put their copy into code that runs on an older
// one.
#include "kernels/sampling/isa/loops.h"

#include "kernels/core/philox.h"

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#ifndef TESSERA_SAMPLING_ISA
#error "loops are compiled with TESSERA_SAMPLING_ISA naming the instruction set"
#endif

namespace tessera::sampling {
namespace TESSERA_SAMPLING_ISA {
namespace {

typedef float Floats __attribute__((vector_size(32)));
typedef int32_t Ints __attribute__((vector_size(32)));
constexpr int64_t kLanes = 8;
constexpr Ints kLaneBits = {1, 2, 4, 8, 16, 32, 64, 128};

constexpr float kInfinity = __builtin_inff();
constexpr int32_t kKeyOfInfinity = 0x7f800000;
constexpr int32_t kKeyOfMinusInfinity = static_cast<int32_t>(0xff800000U ^ 0x7fffffffU);

// Integers in the order of the floats they stand for: integer maxima are exact for NaN and signed
// zeros, too. Adding zero turns -0 into +0.
inline Ints KeysOf(const float* p) {
  Floats value;
  __builtin_memcpy(&value, p, sizeof(value));
  value = value + 0.0F;
  Ints bits;
  __builtin_memcpy(&bits, &value, sizeof(bits));
  return bits ^ ((bits >> 31) & 0x7fffffff);
}

inline float FromKey(int32_t key) {
  return __builtin_bit_cast(float, key ^ ((key >> 31) & 0x7fffffff));
}

inline Ints Greater(Ints a, Ints b) { return a > b ? a : b; }
inline Ints Less(Ints a, Ints b) { return a < b ? a : b; }

inline int32_t Largest(Ints keys) {
  keys = Greater(keys, __builtin_shufflevector(keys, keys, 4, 5, 6, 7, 0, 1, 2, 3));
  keys = Greater(keys, __builtin_shufflevector(keys, keys, 2, 3, 0, 1, 6, 7, 4, 5));
  keys = Greater(keys, __builtin_shufflevector(keys, keys, 1, 0, 3, 2, 5, 4, 7, 6));
  return keys[0];
}

struct KeyRange {
  Ints low;
  Ints high;
};

// The largest of kBlock floats; widens `range` by all of them.
inline float SummarizeBlock(const float* logits, KeyRange& range) {
  Ints high = KeysOf(logits);
  Ints low = high;
  for (int64_t i = kLanes; i < kBlock; i += kLanes) {
    const Ints keys = KeysOf(logits + i);
    high = Greater(high, keys);
    low = Less(low, keys);
  }
  range.high = Greater(range.high, high);
  range.low = Less(range.low, low);
  return FromKey(Largest(high));
}

// NaNs of either sign lie outside the range of keys of numbers. ~key reverses the order.
inline bool HoldsNan(const KeyRange& range) {
  return Largest(range.high) > kKeyOfInfinity || ~Largest(~range.low) < kKeyOfMinusInfinity;
}

bool Summarize(const float* logits, int64_t size, float* block_largest) {
  KeyRange range{Ints{} + kKeyOfInfinity, Ints{} + kKeyOfMinusInfinity};
  int64_t block = 0;
  for (; (block + 1) * kBlock <= size; ++block) {
    block_largest[block] = SummarizeBlock(logits + block * kBlock, range);
  }
  const int64_t rest = size - block * kBlock;
  if (rest > 0) {
    float padded[kBlock];
    for (float& value : padded) value = -kInfinity;
    __builtin_memcpy(padded, logits + block * kBlock, rest * sizeof(float));
    block_largest[block] = SummarizeBlock(padded, range);
  }
  return HoldsNan(range);
}

// kBlock logits, or -inf where their bit of the two words is 0.
inline void MaskBlock(const float* logits, const int32_t* words, float* out) {
  constexpr int64_t kLanesPerWord = 32;
  for (int64_t i = 0; i < kBlock; i += kLanes) {
    const auto bits = static_cast<int32_t>(static_cast<uint32_t>(words[i / kLanesPerWord]) >>
                                           (i % kLanesPerWord));
    const Ints allowed = ((Ints{} + bits) & kLaneBits) == kLaneBits;
    Ints value;
    __builtin_memcpy(&value, logits + i, sizeof(value));
    value = (value & allowed) | ((Ints{} + __builtin_bit_cast(int32_t, -kInfinity)) & ~allowed);
    __builtin_memcpy(out + i, &value, sizeof(value));
  }
}

bool SummarizeMasked(const float* logits, const int32_t* mask, int64_t size, float* out,
                     float* block_largest) {
  constexpr int64_t kWords = kBlock / 32;
  KeyRange range{Ints{} + kKeyOfInfinity, Ints{} + kKeyOfMinusInfinity};
  int64_t block = 0;
  for (; (block + 1) * kBlock <= size; ++block) {
    MaskBlock(logits + block * kBlock, mask + block * kWords, out + block * kBlock);
    block_largest[block] = SummarizeBlock(out + block * kBlock, range);
  }
  const int64_t rest = size - block * kBlock;
  if (rest > 0) {
    float padded[kBlock];
    int32_t words[kWords] = {};
    for (float& value : padded) value = -kInfinity;
    __builtin_memcpy(padded, logits + block * kBlock, rest * sizeof(float));
    __builtin_memcpy(words, mask + block * kWords, (rest + 31) / 32 * sizeof(int32_t));
    MaskBlock(padded, words, padded);
    __builtin_memcpy(out + block * kBlock, padded, rest * sizeof(float));
    block_largest[block] = SummarizeBlock(padded, range);
  }
  return HoldsNan(range);
}

inline double MulAdd(double a, double b, double c) {
#if defined(__FMA__)
  return __builtin_fma(a, b, c);
#else
  return a * b + c;
#endif
}

// e^x for x <= 0: 2^n * e^r with n = round(x / ln 2) and the Taylor series of e^r, |r| <= ln 2 / 2;
// the first term left out is 0.3466^12 / 12! = 6e-15.
inline double ExpNonPositive(double x) {
  constexpr double kRound = 6755399441055744.0;  // 1.5 * 2^52: adding it rounds to an integer
  constexpr double kLog2E = 1.4426950408889634;
  constexpr double kLn2High = 0.693147180369123816490;
  constexpr double kLn2Low = 1.90821492927058770002e-10;
  constexpr double kSmallest = -700.0;
  const double clamped = x > kSmallest ? x : kSmallest;
  const double rounded = MulAdd(clamped, kLog2E, kRound);
  const double n = rounded - kRound;
  const double r = MulAdd(n, -kLn2Low, MulAdd(n, -kLn2High, clamped));
  double series = 1.0 / 39916800;
  series = MulAdd(series, r, 1.0 / 3628800);
  series = MulAdd(series, r, 1.0 / 362880);
  series = MulAdd(series, r, 1.0 / 40320);
  series = MulAdd(series, r, 1.0 / 5040);
  series = MulAdd(series, r, 1.0 / 720);
  series = MulAdd(series, r, 1.0 / 120);
  series = MulAdd(series, r, 1.0 / 24);
  series = MulAdd(series, r, 1.0 / 6);
  series = MulAdd(series, r, 0.5);
  series = MulAdd(series, r, 1.0);
  series = MulAdd(series, r, 1.0);
  const int64_t exponent =
      __builtin_bit_cast(int64_t, rounded) - __builtin_bit_cast(int64_t, kRound);
  const double power = __builtin_bit_cast(double, (exponent + 1023) << 52);
  return x > kSmallest ? series * power : 0.0;
}

void Weigh(const ScaledLogits& row, int64_t begin, int64_t count, double* weights) {
  const float* logits = row.logits + begin;
  const float divisor = row.divisor;
  const double largest = row.largest;
  for (int64_t i = 0; i < count; ++i) {
    weights[i] = ExpNonPositive(static_cast<double>(logits[i] / divisor) - largest);
  }
}

double SumWeights(const ScaledLogits& row, int64_t begin, int64_t count) {
  constexpr int64_t kSums = 16;
  const float* logits = row.logits + begin;
  const float divisor = row.divisor;
  const double largest = row.largest;
  double sums[kSums] = {};
  int64_t i = 0;
  for (; i + kSums <= count; i += kSums) {
    double weights[kSums];
    for (int64_t j = 0; j < kSums; ++j) {
      weights[j] = ExpNonPositive(static_cast<double>(logits[i + j] / divisor) - largest);
    }
    for (int64_t j = 0; j < kSums; ++j) sums[j] += weights[j];
  }
  double total = 0;
  for (; i < count; ++i) {
    total += ExpNonPositive(static_cast<double>(logits[i] / divisor) - largest);
  }
  for (const double sum : sums) total += sum;
  return total;
}

void Bucket(const ScaledLogits& row, int64_t begin, int64_t count, int32_t* buckets) {
  constexpr float kLast = kBuckets - 1;
  const float* logits = row.logits + begin;
  const float divisor = row.divisor;
  const float largest = row.largest;
  for (int64_t i = 0; i < count; ++i) {
    const float distance = (largest - logits[i] / divisor) * kBucketsPerUnit;
    buckets[i] = static_cast<int32_t>(distance < kLast ? distance : kLast);
  }
}

int32_t CountGreater(const ScaledLogits& row, int64_t begin, int64_t count, float limit) {
  const float* logits = row.logits + begin;
  const float divisor = row.divisor;
  int32_t greater = 0;
  for (int64_t i = 0; i < count; ++i) greater += logits[i] / divisor > limit ? 1 : 0;
  return greater;
}

// The four draws of each of a block's groups.
constexpr uint32_t kGroups = kBlock / 4;

#if defined(__AVX2__)

// Four counters: word w of counter i is the low half of lane i of word[w]; the high halves hold
// whatever the products left there.
struct FourCounters {
  __m256i word[4];

  void Round(__m256i key0, __m256i key1) {
    const __m256i product0 = _mm256_mul_epu32(word[0], _mm256_set1_epi64x(Philox::kMultiplier0));
    const __m256i product1 = _mm256_mul_epu32(word[2], _mm256_set1_epi64x(Philox::kMultiplier1));
    word[0] = _mm256_xor_si256(_mm256_srli_epi64(product1, 32), _mm256_xor_si256(word[1], key0));
    word[2] = _mm256_xor_si256(_mm256_srli_epi64(product0, 32), _mm256_xor_si256(word[3], key1));
    word[1] = product1;
    word[3] = product0;
  }
};

inline __m256i LowHalves(__m256i even, __m256i odd) {
  return _mm256_blend_epi32(even, _mm256_slli_epi64(odd, 32), 0xAA);
}

inline __m256i AtLeast(__m256i x, __m256i least) {
  return _mm256_cmpeq_epi32(_mm256_max_epu32(x, least), x);
}

bool DrawsOfBlock(uint64_t seed, uint32_t position, uint32_t block, uint32_t least,
                  uint32_t* draws) {
  const __m256i limit = _mm256_set1_epi32(static_cast<int32_t>(least));
  __m256i any = _mm256_setzero_si256();
  for (uint32_t part = 0; part < 2; ++part) {
    FourCounters counters[2];
    for (uint32_t i = 0; i < 2; ++i) {
      const uint32_t first = block * kGroups + part * 8 + i * 4;
      counters[i].word[0] =
          _mm256_add_epi64(_mm256_set1_epi64x(first), _mm256_setr_epi64x(0, 1, 2, 3));
      counters[i].word[1] = _mm256_set1_epi64x(position);
      counters[i].word[2] = counters[i].word[3] = _mm256_setzero_si256();
    }
    auto key0 = static_cast<uint32_t>(seed);
    auto key1 = static_cast<uint32_t>(seed >> 32);
    for (int round = 0; round < Philox::kRounds; ++round) {
      const __m256i keys0 = _mm256_set1_epi64x(key0);
      const __m256i keys1 = _mm256_set1_epi64x(key1);
      counters[0].Round(keys0, keys1);
      counters[1].Round(keys0, keys1);
      key0 += Philox::kWeyl0;
      key1 += Philox::kWeyl1;
    }
    for (uint32_t i = 0; i < 2; ++i) {
      const __m256i front = LowHalves(counters[i].word[0], counters[i].word[1]);
      const __m256i back = LowHalves(counters[i].word[2], counters[i].word[3]);
      any = _mm256_or_si256(any, _mm256_or_si256(AtLeast(front, limit), AtLeast(back, limit)));
      // Lanes of 64 bits: front 0 back 0 | front 2 back 2, and front 1 back 1 | front 3 back 3.
      const __m256i even = _mm256_unpacklo_epi64(front, back);
      const __m256i odd = _mm256_unpackhi_epi64(front, back);
      auto* out = reinterpret_cast<__m256i*>(draws + part * 32 + i * 16);
      _mm256_storeu_si256(out, _mm256_permute2x128_si256(even, odd, 0x20));
      _mm256_storeu_si256(out + 1, _mm256_permute2x128_si256(even, odd, 0x31));
    }
  }
  return _mm256_testz_si256(any, any) == 0;
}

#else

// Only the portable table comes here, and its inline functions run everywhere.
bool DrawsOfBlock(uint64_t seed, uint32_t position, uint32_t block, uint32_t least,
                  uint32_t* draws) {
  bool any = false;
  for (uint32_t group = 0; group < kGroups; ++group) {
    for (const uint32_t draw : DrawsOfGroup(seed, position, block * kGroups + group)) {
      any = any || draw >= least;
      *draws++ = draw;
    }
  }
  return any;
}

#endif

}  // namespace

constexpr Loops kTable = {
    .name = TESSERA_SAMPLING_ISA_NAME,
    .summarize = Summarize,
    .summarize_masked = SummarizeMasked,
    .weigh = Weigh,
    .sum_weights = SumWeights,
    .bucket = Bucket,
    .count_greater = CountGreater,
    .draws_of_block = DrawsOfBlock,
};

}  // namespace TESSERA_SAMPLING_ISA

const Loops& TESSERA_SAMPLING_TABLE() { return TESSERA_SAMPLING_ISA::kTable; }

}  // namespace tessera::sampling
