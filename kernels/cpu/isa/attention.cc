// Attention of a tile of query rows over one span of positions: scores = q K^T by the matrix
// kernel over transposed keys, online softmax per chunk, sums += p V by the same kernel. With
// instructions that multiply bfloat16, keys and values of that type meet queries and probabilities
// rounded to it.
#include "kernels/cpu/isa/f32x16.h"
#include "kernels/cpu/isa/table.h"

namespace tessera::cpu::TESSERA_CPU_ISA {
namespace {

#if defined(__AVX512BF16__)
constexpr bool kMultipliesBf16 = true;
#else
constexpr bool kMultipliesBf16 = false;
#endif

constexpr float kInfinity = __builtin_inff();
constexpr int64_t kAhead = 32;  // positions between fetching a row and using it
// Rows of a panel of values: one more than are used, which keeps panels off the same cache sets.
constexpr int64_t kValueRows = kChunk + 1;

// The scratch of one tile.
struct Workspace {
  float* scores;  // [kQueryRows][kChunk], then probabilities
  float* keys;    // panels of 16 positions: [kChunk / 16][PanelSize(head_dim)]
  float* values;  // panels of 16 columns: [head_dim / 16][kValueRows][16], or rounded [..][pairs]
  float* zeros;   // one row
  float* copies;  // 16 rows padded to whole blocks of 16 words
  uint16_t* rounded_q;              // rounded rows
  uint16_t* rounded_probabilities;  // rounded rows
};

Workspace Divide(const AttentionSpan& span) {
  const int64_t width = (span.head_dim + 31) / 32 * 32;
  Workspace work{};
  work.scores = span.scratch;
  work.keys = work.scores + kQueryRows * kChunk;
  work.values = work.keys + kChunk * width;
  work.copies = work.values + kValueRows * width;
  work.zeros = work.copies + kPanel * width;
  work.rounded_q = reinterpret_cast<uint16_t*>(work.zeros + width);
  work.rounded_probabilities = work.rounded_q + kQueryRows * width;
  return work;
}

inline bool IsRounded(const AttentionSpan& span) { return kMultipliesBf16 && span.bf16; }

inline int64_t ElementSize(const AttentionSpan& span) { return span.bf16 ? 2 : 4; }

// Where the rows of a chunk lie, and of some positions beyond it, which are fetched early.
// Positions that are not to be read point to zeros.
struct ChunkRows {
  const char* k[kChunk + kAhead];
  const char* v[kChunk + kAhead];
};

void FindRows(const AttentionSpan& span, const float* zeros, int64_t chunk, ChunkRows& rows) {
  int64_t block = chunk / span.block_size;
  int64_t offset = chunk % span.block_size;
  const int64_t element = ElementSize(span);
  for (int64_t i = 0; i < kChunk + kAhead; ++i) {
    if (chunk + i >= span.begin && chunk + i < span.end) {
      const int64_t number = span.block_table[block];
      const int64_t row = offset * span.head_dim;
      rows.k[i] = static_cast<const char*>(span.k) + (number * span.k_block_stride + row) * element;
      rows.v[i] = static_cast<const char*>(span.v) + (number * span.v_block_stride + row) * element;
    } else {
      rows.k[i] = reinterpret_cast<const char*>(zeros);
      rows.v[i] = rows.k[i];
    }
    if (++offset == span.block_size) {
      offset = 0;
      ++block;
    }
  }
}

inline void Fetch(const char* row, int64_t bytes) {
  for (int64_t i = 0; i < bytes; i += 64) __builtin_prefetch(row + i, 0, 2);
}

// One panel of keys: 16 positions side by side, in the layout of a weight panel.
void PackKeys(const AttentionSpan& span, const Workspace& work, const char* const* keys,
              float* panel) {
  const int64_t bytes = span.head_dim * ElementSize(span);
  const int64_t stride = (bytes + 63) / 64 * 64;
  const void* rows[kPanel];
  for (int64_t i = 0; i < kPanel; ++i) {
    Fetch(keys[i + kAhead], bytes);
    rows[i] = keys[i];
    if (bytes % 64 != 0) {
      char* copy = reinterpret_cast<char*>(work.copies) + i * stride;
      __builtin_memcpy(copy, keys[i], bytes);
      rows[i] = copy;
    }
  }
  for (int64_t begin = 0; begin < bytes; begin += 64) {
    Transpose(rows, panel + begin / 4 * kPanel);
    for (const void*& row : rows) row = static_cast<const char*>(row) + 64;
  }
}

void PackValues(const AttentionSpan& span, const Workspace& work, const char* const* rows,
                int64_t count) {
  const int64_t bytes = span.head_dim * ElementSize(span);
  for (int64_t j = 0; j < count; ++j) {
    Fetch(rows[j + kAhead], bytes);
    float* out = work.values + j * kPanel;
    int64_t i = 0;
    if (span.bf16) {
      const auto* bits = reinterpret_cast<const uint16_t*>(rows[j]);
      for (; i + kPanel <= span.head_dim; i += kPanel)
        Store(out + i * kValueRows, LoadBf16(bits + i));
      if (i < span.head_dim) {
        uint16_t rest[kPanel] = {};
        __builtin_memcpy(rest, bits + i, (span.head_dim - i) * 2);
        Store(out + i * kValueRows, LoadBf16(rest));
      }
    } else {
      const auto* x = reinterpret_cast<const float*>(rows[j]);
      for (; i < span.head_dim; i += kPanel) {
        Store(out + i * kValueRows, LoadSome(x + i, span.head_dim - i));
      }
    }
  }
}

// Turns one row of scores into probabilities relative to the new largest score and rescales what
// was summed before. Positions at and beyond `count` are invisible and left out.
void SoftmaxRow(const AttentionSpan& span, int64_t r, int64_t chunk, int64_t count, float* scores) {
  const auto position = static_cast<int32_t>(chunk);
  const F32x16 scale = Set1(span.scale);
  F32x16 largest = Set1(-kInfinity);
  for (int32_t i = 0; i < count; i += kPanel) {
    const F32x16 x =
        KeepPositions(Mul(Load(scores + i), scale), position + i, span.first[r], span.last[r]);
    Store(scores + i, x);
    largest = Max(largest, x);
  }
  const float before = span.state.largest[r];
  const float here = ReduceMax(largest);
  const float now = before > here ? before : here;
  const float shift = now == -kInfinity ? 0.0F : now;
  F32x16 total = Set1(0.0F);
  for (int64_t i = 0; i < count; i += kPanel) {
    const F32x16 p = Exp(Sub(Load(scores + i), Set1(shift)));
    Store(scores + i, p);
    total = Add(total, p);
  }
  if (now != before) {
    float factor[kPanel];
    Store(factor, Exp(Set1(before - shift)));
    span.state.largest[r] = now;
    span.state.total[r] *= factor[0];
    const int64_t width = RoundUpToPanel(span.head_dim);
    float* sums = span.state.sums + r * width;
    for (int64_t i = 0; i < width; i += kPanel) {
      Store(sums + i, Mul(Load(sums + i), Set1(factor[0])));
    }
  }
  span.state.total[r] += ReduceAdd(total);
}

void Score(const AttentionSpan& span, const Workspace& work, int64_t count) {
  MultiplyDirect({.x = span.q,
                  .rows = span.rows,
                  .k = span.head_dim,
                  .panels = work.keys,
                  .bf16 = span.bf16,
                  .columns = RoundUpToPanel(count),
                  .out = work.scores,
                  .out_stride = kChunk,
                  .bias = nullptr,
                  .scratch = nullptr},
                 span.head_dim, /*accumulate=*/false);
}

void AddValues(const AttentionSpan& span, const Workspace& work, const char* const* rows,
               int64_t count) {
  const float* probabilities[kQueryRows];
  for (int64_t r = 0; r < span.rows; ++r) probabilities[r] = work.scores + r * kChunk;
  PackValues(span, work, rows, count);
  const int64_t width = RoundUpToPanel(span.head_dim);
  MultiplyDirect({.x = probabilities,
                  .rows = span.rows,
                  .k = kValueRows,
                  .panels = work.values,
                  .bf16 = false,
                  .columns = width,
                  .out = span.state.sums,
                  .out_stride = width,
                  .bias = nullptr,
                  .scratch = nullptr},
                 count, /*accumulate=*/true);
}

#if defined(__AVX512BF16__)

void RoundQueries(const AttentionSpan& span, const Workspace& work) {
  for (int64_t r = 0; r < span.rows; ++r) {
    RoundRow(span.q[r], span.head_dim, work.rounded_q + RoundedRow(r, span.head_dim));
  }
}

void ScoreRounded(const AttentionSpan& span, const Workspace& work, int64_t count) {
  MultiplyRounded({.x = work.rounded_q,
                   .rows = span.rows,
                   .k = span.head_dim,
                   .panels = work.keys,
                   .columns = RoundUpToPanel(count),
                   .out = work.scores,
                   .out_stride = kChunk,
                   .bias = nullptr,
                   .accumulate = false});
}

// Two rows of values, interleaved: a line of each panel.
void PackValuePair(const char* even, const char* odd, int64_t head_dim, int64_t panel_size,
                   uint16_t* out) {
  const __m512i low = _mm512_set_epi16(47, 15, 46, 14, 45, 13, 44, 12, 43, 11, 42, 10, 41, 9, 40, 8,
                                       39, 7, 38, 6, 37, 5, 36, 4, 35, 3, 34, 2, 33, 1, 32, 0);
  const __m512i high = _mm512_add_epi16(low, _mm512_set1_epi16(16));
  for (int64_t i = 0; i < head_dim; i += 2 * kPanel) {
    const int64_t left = head_dim - i;
    const __mmask32 lanes = left >= 32 ? ~__mmask32{0} : (__mmask32{1} << left) - 1;
    const __m512i a = _mm512_maskz_loadu_epi16(lanes, even + i * 2);
    const __m512i b = _mm512_maskz_loadu_epi16(lanes, odd + i * 2);
    _mm512_storeu_si512(out, _mm512_permutex2var_epi16(a, low, b));
    if (left > kPanel) {
      _mm512_storeu_si512(out + panel_size, _mm512_permutex2var_epi16(a, high, b));
    }
    out += 2 * panel_size;
  }
}

void AddValuesRounded(const AttentionSpan& span, const Workspace& work, const char* const* rows,
                      int64_t count) {
  for (int64_t r = 0; r < span.rows; ++r) {
    RoundRow(work.scores + r * kChunk, count, work.rounded_probabilities + RoundedRow(r, count));
  }
  const int64_t panel_size = PanelSize(count, /*bf16=*/true);
  auto* values = reinterpret_cast<uint16_t*>(work.values);
  for (int64_t j = 0; j < count; j += 2) {
    Fetch(rows[j + kAhead], span.head_dim * 2);
    Fetch(rows[j + 1 + kAhead], span.head_dim * 2);
    // The row after the last is zeros.
    PackValuePair(rows[j], rows[j + 1], span.head_dim, panel_size, values + j * kPanel);
  }
  const int64_t width = RoundUpToPanel(span.head_dim);
  MultiplyRounded({.x = work.rounded_probabilities,
                   .rows = span.rows,
                   .k = count,
                   .panels = values,
                   .columns = width,
                   .out = span.state.sums,
                   .out_stride = width,
                   .bias = nullptr,
                   .accumulate = true});
}

#else

void RoundQueries(const AttentionSpan& /*span*/, const Workspace& /*work*/) {}
void ScoreRounded(const AttentionSpan& /*span*/, const Workspace& /*work*/, int64_t /*count*/) {}
void AddValuesRounded(const AttentionSpan& /*span*/, const Workspace& /*work*/,
                      const char* const* /*rows*/, int64_t /*count*/) {}

#endif

void AttendChunk(const AttentionSpan& span, const Workspace& work, int64_t chunk) {
  const int64_t count = Least(kChunk, span.end - chunk);
  const int64_t key_panel = PanelSize(span.head_dim, span.bf16) * ElementSize(span) / 4;
  ChunkRows rows;
  FindRows(span, work.zeros, chunk, rows);
  // A panel is written in whole blocks of 16 words, so the next one overwrites the padding.
  for (int64_t i = 0; i < count; i += kPanel) {
    PackKeys(span, work, rows.k + i, work.keys + i / kPanel * key_panel);
  }
  if (IsRounded(span)) {
    ScoreRounded(span, work, count);
  } else {
    Score(span, work, count);
  }
  for (int64_t r = 0; r < span.rows; ++r) {
    SoftmaxRow(span, r, chunk, count, work.scores + r * kChunk);
  }
  if (IsRounded(span)) {
    AddValuesRounded(span, work, rows.v, count);
  } else {
    AddValues(span, work, rows.v, count);
  }
}

}  // namespace

void Attend(const AttentionSpan& span) {
  const Workspace work = Divide(span);
  const int64_t width = RoundUpToPanel(span.head_dim);
  for (int64_t i = 0; i < span.head_dim; i += kPanel) Store(work.zeros + i, Set1(0.0F));
  for (int64_t r = 0; r < span.rows; ++r) {
    span.state.largest[r] = -kInfinity;
    span.state.total[r] = 0.0F;
  }
  for (int64_t i = 0; i < span.rows * width; i += kPanel) Store(span.state.sums + i, Set1(0.0F));
  if (IsRounded(span)) RoundQueries(span, work);
  for (int64_t chunk = span.begin / kChunk * kChunk; chunk < span.end; chunk += kChunk) {
    AttendChunk(span, work, chunk);
  }
}

void Merge(const AttentionState& into, const AttentionState& from, int64_t rows, int64_t width) {
  for (int64_t r = 0; r < rows; ++r) {
    const float largest = into.largest[r] > from.largest[r] ? into.largest[r] : from.largest[r];
    const float shift = largest == -kInfinity ? 0.0F : largest;
    float factors[2][kPanel];
    Store(factors[0], Exp(Set1(into.largest[r] - shift)));
    Store(factors[1], Exp(Set1(from.largest[r] - shift)));
    const F32x16 a = Load(factors[0]);
    const F32x16 b = Load(factors[1]);
    into.largest[r] = largest;
    into.total[r] = into.total[r] * factors[0][0] + from.total[r] * factors[1][0];
    for (int64_t i = 0; i < width; i += kPanel) {
      float* sums = into.sums + r * width + i;
      Store(sums, Add(Mul(Load(sums), a), Mul(Load(from.sums + r * width + i), b)));
    }
  }
}

void Finish(const float* sums, float total, int64_t size, float* out) {
  const F32x16 scale = Set1(1.0F / total);
  // Adding zero turns -0 into +0: its sign may depend on which positions shared a chunk.
  for (int64_t i = 0; i < size; i += kPanel) {
    StoreSome(out + i, Add(Mul(LoadSome(sums + i, size - i), scale), Set1(0.0F)), size - i);
  }
}

}  // namespace tessera::cpu::TESSERA_CPU_ISA
