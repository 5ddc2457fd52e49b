// The vector kernels of the CPU backend as a table of functions over raw pointers. Every table is
// compiled from the same sources for another instruction set, each in a namespace of its own; this
// header is the only one that code of both sides sees, so it holds nothing but plain data.
//
// All kernels compute with virtual vectors of 16 floats, whatever the machine's width, and reduce
// them in one fixed tree. AVX2 and everything above therefore give the same bits; the portable
// table rounds differently where the machine has no fused multiply-add. The exception are products
// of bfloat16 by bfloat16, which AVX512-BF16 and AMX each sum in a way of their own.
#ifndef TESSERA_KERNELS_CPU_ISA_KERNELS_H_
#define TESSERA_KERNELS_CPU_ISA_KERNELS_H_

#include <cstdint>

namespace tessera::cpu {

// Columns of a weight panel. A panel of a float32 weight is [K][16]; one of a bfloat16 weight is
// [ceil(K / 2)][16][2]: pairs of consecutive k side by side, an odd K padded with zeros.
constexpr int64_t kPanel = 16;

// Elements of one panel.
static constexpr int64_t PanelSize(int64_t k, bool bf16) {
  return kPanel * (bf16 ? (k + 1) / 2 * 2 : k);
}

// out[r, :columns] = x[r] times consecutive panels (+ bias). Every output element is one sequential
// sum over k, so it does not depend on the other rows or columns.
struct MatMul {
  const float* const* x;  // [rows] pointers to k floats
  int64_t rows;
  int64_t k;
  const void* panels;  // first panel
  bool bf16;
  int64_t columns;  // from the first panel on
  float* out;
  int64_t out_stride;
  const float* bias;  // [columns] or null
  float* scratch;     // kMatMulScratch floats; used when rows > kDirectRows
};
constexpr int64_t kRowBlock = 192;  // most rows of one call that share a converted panel
constexpr int64_t kDepthBlock = 256;
constexpr int64_t kScratchRow = kDepthBlock + kPanel;  // keeps rows off the same cache sets
constexpr int64_t kMatMulScratch = kRowBlock * kScratchRow + 2 * kPanel * kDepthBlock;

// The rows of a product that rounds its activations to bfloat16, in tiles of 16 rows and 32 k:
// [ceil(rows / 16)][ceil(k / 32)][16][32]. Beyond k a row holds zeros; rows that do not exist hold
// anything. Together with a bfloat16 panel, 32 k of which are as contiguous, these are the operands
// of a tile multiplication.
constexpr int64_t kTileHeight = 16;
constexpr int64_t kTileDepth = 32;
constexpr int64_t kTileElements = kTileHeight * kTileDepth;

static constexpr int64_t TilesOf(int64_t k) { return (k + kTileDepth - 1) / kTileDepth; }
// Elements that `rows` rounded rows take.
static constexpr int64_t RoundedSize(int64_t rows, int64_t k) {
  return (rows + kTileHeight - 1) / kTileHeight * TilesOf(k) * kTileElements;
}
// Where rounded row `row` begins; its next 32 k lie kTileElements further.
static constexpr int64_t RoundedRow(int64_t row, int64_t k) {
  return row / kTileHeight * TilesOf(k) * kTileElements + row % kTileHeight * kTileDepth;
}

// MatMul over rounded rows and bfloat16 panels. Every output element is summed over k in one order,
// that of the instruction set, whatever the number of rows and columns. Rounding to nearest,
// subnormal numbers count as zero.
struct RoundedMatMul {
  const uint16_t* x;  // rounded rows, aligned to 64 bytes
  int64_t rows;
  int64_t k;
  const void* panels;
  int64_t columns;
  float* out;
  int64_t out_stride;
  const float* bias;  // [columns] or null
  bool accumulate;    // add to what out holds
};

// A panel of a quantised weight: W[k][i] = scale[group of k][i] * (code[k][i] - zero[group of
// k][i]) for the 16 rows i. Codes lie in the order in which pairs of bfloat16 do: [ceil(K /
// 2)][16][2]; those of a byte each as they are, those of 4 bits in 16 bytes per pair of k, the
// first 16 of the 32 in the low halves. An odd K is padded with codes of zero.
enum class PanelCode : uint8_t { kInt8, kE4M3, kInt4 };
struct PanelCodes {
  PanelCode type;
  const uint8_t* codes;
  const float* scales;   // [groups][16]
  const uint8_t* zeros;  // [groups][16], of codes of 4 bits; null: 8
  int64_t k;
  int64_t group_size;    // even, or at least k + group_offset
  int64_t group_offset;  // even; inputs of the first group before the first
};
static constexpr int64_t PanelCodeBytes(int64_t k, PanelCode type) {
  return (k + 1) / 2 * (type == PanelCode::kInt4 ? kPanel : 2 * kPanel);
}

// Attention keys are taken in chunks at absolute positions, and chunks are gathered in spans.
// Softmax statistics are kept per span and spans are merged in order, so a query's result depends
// on its own position only. The split over threads is at span borders.
constexpr int64_t kChunk = 64;
constexpr int64_t kSpan = 512;
constexpr int64_t kQueryRows = 128;  // most rows (tokens x heads of one KV head) of a tile

static constexpr int64_t RoundUpToPanel(int64_t size) {
  return (size + kPanel - 1) / kPanel * kPanel;
}

// Running softmax of a tile: weighted sums of V relative to the largest score seen.
struct AttentionState {
  float* largest;  // [rows]
  float* total;    // [rows]
  float* sums;     // [rows, RoundUpToPanel(head_dim)]
};

// One tile of query rows over the positions [begin, end) of one sequence and KV head.
struct AttentionSpan {
  const float* const* q;  // [rows] pointers to head_dim floats
  const int32_t* first;   // [rows] first visible position
  const int32_t* last;    // [rows] last visible position
  int64_t rows;           // <= kQueryRows
  int64_t head_dim;
  int64_t begin;  // within one span; positions before it are not read
  int64_t end;
  const void* k;  // the KV head's rows of block 0
  const void* v;
  bool bf16;
  const int32_t* block_table;
  int64_t block_size;
  int64_t k_block_stride;  // elements between blocks
  int64_t v_block_stride;
  float scale;
  AttentionState state;  // overwritten
  float* scratch;        // AttentionScratch(head_dim) floats, aligned to 64 bytes
};
static constexpr int64_t AttentionScratch(int64_t head_dim) {
  const int64_t width = (head_dim + 31) / 32 * 32;
  // Scores, packed keys and values, copies of 16 key rows, one row of zeros, and half as many
  // floats as rounded queries and probabilities have elements.
  return kQueryRows * kChunk + (2 * kChunk + 1) * width + kPanel * width + width +
         kQueryRows * (width + kChunk) / 2;
}

struct Kernels {
  void (*mat_mul)(const MatMul& job);
  // Writes the panel's values, each rounded to nearest even once as a float and once more where it
  // is bfloat16, as a panel of that type.
  void (*unpack)(const PanelCodes& panel, bool bf16, void* out);
  // Null in tables without instructions that multiply bfloat16.
  void (*mat_mul_rounded)(const RoundedMatMul& job);
  // Writes one rounded row; `out` is where it begins.
  void (*round_row)(const float* x, int64_t k, uint16_t* out);
  // destination[j * 16 + i] = row i's 32-bit word j, for 16 rows of 16 words, unaligned.
  void (*transpose)(const void* const* rows, void* destination);
  void (*attend)(const AttentionSpan& span);
  // `into` then holds both; `rows` rows of `width` sums.
  void (*merge)(const AttentionState& into, const AttentionState& from, int64_t rows,
                int64_t width);
  // out = sums / total of one row.
  void (*finish)(const float* sums, float total, int64_t size, float* out);

  // x += add (when given); out = x / rms(x) * weight.
  void (*rms_norm)(float* x, const float* add, const float* weight, float eps, int64_t size,
                   float* out);
  // out = rotate(x / rms(x) * weight); size even, cos_sin = cos of the pairs, then sin. In place is
  // fine. scratch: size floats.
  void (*norm_rope)(const float* x, const float* weight, const float* cos_sin, float eps,
                    int64_t size, float* scratch, float* out);
  void (*silu_and_mul)(const float* gate, const float* up, int64_t size, float* out);
  void (*to_bf16)(const float* x, int64_t size, uint16_t* out);
  // Sum of exp(x - shift).
  float (*sum_exp)(const float* x, float shift, int64_t size);
  // out = exp(x - shift).
  void (*exp)(const float* x, float shift, int64_t size, float* out);
  // out = sum over ascending i of weights[i] * rows[i].
  void (*weighted_sum)(const float* const* rows, const float* weights, int64_t count, int64_t size,
                       float* out);
};

const Kernels& PortableKernels();
#if defined(__x86_64__)
const Kernels& Avx2Kernels();
const Kernels& Avx512Kernels();
const Kernels& Avx512Bf16Kernels();
const Kernels& AmxKernels();
#endif

}  // namespace tessera::cpu

#endif  // TESSERA_KERNELS_CPU_ISA_KERNELS_H_
