// Panels of quantised weights as panels of values.
#include "kernels/cpu/isa/f32x16.h"
#include "kernels/cpu/isa/table.h"

namespace tessera::cpu::TESSERA_CPU_ISA {
namespace {

// A line: two inputs of 16 rows, [16][2], as two vectors.
struct Line {
  F32x16 low;   // rows 0 to 7
  F32x16 high;  // rows 8 to 15
};

// What turns a line's codes into values.
struct Factors {
  Line scale;
  Line zero;
};

#if defined(__AVX512F__)

inline Line Doubled(F32x16 rows) {
  const __m512i low = _mm512_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7);
  const __m512i high = _mm512_add_epi32(low, _mm512_set1_epi32(8));
  return {{_mm512_permutexvar_ps(low, rows.v)}, {_mm512_permutexvar_ps(high, rows.v)}};
}

inline __m512i LoadBytes(const uint8_t* p) {
  return _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}

inline F32x16 OfInt8(const uint8_t* p) {
  const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  return {_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes))};
}

// As half precision, whose exponent has one bit more and whose bias is larger by 8: converting
// those takes subnormal numbers as fast as others, which multiplying floats does not.
inline F32x16 OfE4m3(const uint8_t* p) {
  const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  const __m256i code = _mm256_cvtepu8_epi16(bytes);
  const __m256i magnitude = _mm256_slli_epi16(_mm256_and_si256(code, _mm256_set1_epi16(0x7F)), 7);
  const __m256i sign = _mm256_slli_epi16(_mm256_and_si256(code, _mm256_set1_epi16(0x80)), 8);
  const __m512 value = _mm512_cvtph_ps(_mm256_or_si256(magnitude, sign));
  return {_mm512_mul_ps(value, _mm512_set1_ps(0x1p8F))};
}

template <PanelCode kType>
inline Line LoadLine(const uint8_t* codes, int64_t line) {
  if constexpr (kType == PanelCode::kInt8) {
    return {OfInt8(codes + line * 32), OfInt8(codes + line * 32 + 16)};
  } else if constexpr (kType == PanelCode::kE4M3) {
    return {OfE4m3(codes + line * 32), OfE4m3(codes + line * 32 + 16)};
  } else {
    // The permutation looks at the low four bits of an index only.
    const __m512 values = _mm512_setr_ps(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    const __m512i bytes = LoadBytes(codes + line * 16);
    return {{_mm512_permutexvar_ps(bytes, values)},
            {_mm512_permutexvar_ps(_mm512_srli_epi32(bytes, 4), values)}};
  }
}

inline void StorePairLine(uint16_t* out, const Line& line) {
#if defined(__AVX512BF16__)
  const __m512bh pairs = _mm512_cvtne2ps_pbh(line.high.v, line.low.v);
  __builtin_memcpy(out, &pairs, sizeof(pairs));
#else
  StoreBf16(out, line.low);
  StoreBf16(out + kPanel, line.high);
#endif
}

// The inputs apart: the even lanes of both vectors, and the odd ones.
inline void StoreFloatLine(float* out, const Line& line, bool both) {
  const __m512i even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
  const __m512i odd = _mm512_add_epi32(even, _mm512_set1_epi32(1));
  Store(out, {_mm512_permutex2var_ps(line.low.v, even, line.high.v)});
  if (both) Store(out + kPanel, {_mm512_permutex2var_ps(line.low.v, odd, line.high.v)});
}

#else

inline Line LoadFloats(const float (&values)[2 * kPanel]) {
  return {Load(values), Load(values + kPanel)};
}

inline Line Doubled(F32x16 rows) {
  float from[kPanel];
  Store(from, rows);
  float values[2 * kPanel];
  for (int i = 0; i < 2 * kPanel; ++i) values[i] = from[i / 2];
  return LoadFloats(values);
}

// Their values: multiplying floats that are subnormal would be slow.
struct E4m3Values {
  float of[256];

  constexpr E4m3Values() : of() {
    for (int code = 0; code < 256; ++code) {
      const int exponent = (code >> 3) & 15;
      float value = static_cast<float>((code & 7) + (exponent == 0 ? 0 : 8)) * 0x1p-9F;
      for (int i = 1; i < exponent; ++i) value *= 2;
      of[code] = (code & 0x80) != 0 ? -value : value;
    }
  }
};
constexpr E4m3Values kE4m3;

template <PanelCode kType>
inline Line LoadLine(const uint8_t* codes, int64_t line) {
  float values[2 * kPanel];
  if constexpr (kType == PanelCode::kInt4) {
    const uint8_t* const bytes = codes + line * kPanel;
    for (int i = 0; i < kPanel; ++i) values[i] = static_cast<float>(bytes[i] & 15);
    for (int i = 0; i < kPanel; ++i) values[kPanel + i] = static_cast<float>(bytes[i] >> 4);
  } else {
    const uint8_t* const bytes = codes + line * 2 * kPanel;
    for (int i = 0; i < 2 * kPanel; ++i) {
      values[i] = kType == PanelCode::kInt8 ? static_cast<float>(static_cast<int8_t>(bytes[i]))
                                            : kE4m3.of[bytes[i]];
    }
  }
  return LoadFloats(values);
}

inline void StorePairLine(uint16_t* out, const Line& line) {
  StoreBf16(out, line.low);
  StoreBf16(out + kPanel, line.high);
}

inline void StoreFloatLine(float* out, const Line& line, bool both) {
  float values[2 * kPanel];
  Store(values, line.low);
  Store(values + kPanel, line.high);
  for (int i = 0; i < kPanel; ++i) out[i] = values[2 * i];
  for (int i = 0; i < kPanel && both; ++i) out[kPanel + i] = values[2 * i + 1];
}

#endif

inline Factors FactorsOf(const PanelCodes& panel, int64_t group) {
  Factors factors{.scale = Doubled(Load(panel.scales + group * kPanel)), .zero = {}};
  float zeros[kPanel];
  for (int i = 0; i < kPanel; ++i) {
    zeros[i] = panel.zeros == nullptr ? 8.0F : static_cast<float>(panel.zeros[group * kPanel + i]);
  }
  factors.zero = Doubled(Load(zeros));
  return factors;
}

template <PanelCode kType>
inline Line Values(const PanelCodes& panel, const Factors& factors, int64_t line) {
  Line codes = LoadLine<kType>(panel.codes, line);
  if constexpr (kType == PanelCode::kInt4) {
    codes = {Sub(codes.low, factors.zero.low), Sub(codes.high, factors.zero.high)};
  }
  return {Mul(codes.low, factors.scale.low), Mul(codes.high, factors.scale.high)};
}

template <PanelCode kType>
void Unpack(const PanelCodes& panel, bool bf16, void* out) {
  const int64_t lines = (panel.k + 1) / 2;
  int64_t line = 0;
  for (int64_t group = 0; line < lines; ++group) {
    const int64_t end = (group + 1) * panel.group_size - panel.group_offset;
    const int64_t end_line = end >= panel.k ? lines : end / 2;
    const Factors factors = FactorsOf(panel, group);
    if (bf16) {
      auto* const pairs = static_cast<uint16_t*>(out);
      for (; line < end_line; ++line) {
        __builtin_prefetch(panel.codes + line * kPanel + 1024);
        StorePairLine(pairs + line * 2 * kPanel, Values<kType>(panel, factors, line));
      }
    } else {
      auto* const floats = static_cast<float*>(out);
      for (; line < end_line; ++line) {
        StoreFloatLine(floats + line * 2 * kPanel, Values<kType>(panel, factors, line),
                       2 * line + 1 < panel.k);
      }
    }
  }
}

}  // namespace

void UnpackPanel(const PanelCodes& panel, bool bf16, void* out) {
  switch (panel.type) {
    case PanelCode::kInt8:
      return Unpack<PanelCode::kInt8>(panel, bf16, out);
    case PanelCode::kE4M3:
      return Unpack<PanelCode::kE4M3>(panel, bf16, out);
    case PanelCode::kInt4:
      return Unpack<PanelCode::kInt4>(panel, bf16, out);
  }
}

}  // namespace tessera::cpu::TESSERA_CPU_ISA
