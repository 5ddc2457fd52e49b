// The operations of a decoder layer, each with its shape contract (those that keep the books of
// mixture-of-experts layers: kernels/core/expert_ops.h). Three backends implement them:
// ref/ (naive, the oracle), cpu/ (threads and SIMD), cuda/ (GPU); ref/ also runs behind a
// queue in tests. Every call only enqueues; results are defined after device().Synchronize().
//
// Batch invariance: an output row depends on its own inputs only. Every reduction runs in an order
// that is fixed by the row's own shape (K, context length, number of experts), never by the number
// of rows, the position of the row, the block placement or the number of threads.
//
// Rounding: an operation loads its inputs exactly, computes and accumulates in fp32 or better, and
// rounds an element once, to nearest even, where it stores it as act; what it keeps to itself is
// not rounded. Two liberties, for units that multiply bfloat16 only: where a weight is bfloat16,
// the rows it multiplies may be rounded first (act = kF32), and where keys and values are, the
// queries and probabilities that meet them.
//
// Letters in shapes: T tokens of the step, S sequences, N logits rows, H hidden size, Nq/Nk query
// and KV heads on this rank, D head_dim, F feed-forward width, E experts held by this rank, k
// experts per token, V vocabulary. int = DType::kI32. "act" = ActivationDType().
#ifndef TESSERA_KERNELS_OPS_H_
#define TESSERA_KERNELS_OPS_H_

#include <cstdint>
#include <limits>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/core/device.h"
#include "kernels/core/expert_ops.h"
#include "kernels/core/shared_buffers.h"
#include "kernels/core/tensor.h"

namespace tessera {

// A matrix [rows, cols] (out_features, in_features) in whatever layout the backend likes best.
class Weight {
 public:
  virtual ~Weight() = default;
  virtual int64_t rows() const = 0;
  virtual int64_t cols() const = 0;
  virtual size_t bytes() const = 0;  // device memory held
};

struct ExpertTableShape {
  int32_t num_slots = 0;
  int64_t rows = 0;  // of every slot's weight
  int64_t cols = 0;
};

// The weights of a layer's expert slots in the form in which GroupedGemm reads them, made once per
// layer; a GPU's table is an array of addresses in its memory. Slots are empty at first.
class ExpertTable {
 public:
  virtual ~ExpertTable() = default;
  const ExpertTableShape& shape() const { return shape_; }
  // Work enqueued from now on uses `weight` in that slot; work enqueued before still uses what was
  // there. The weight, of this table's backend, must outlive the table or its replacement.
  virtual void Set(int32_t slot, const Weight& weight) = 0;

 protected:
  explicit ExpertTable(const ExpertTableShape& shape) : shape_(shape) {}
  void CheckFits(int32_t slot, const Weight& weight) const {
    TESSERA_CHECK(slot >= 0 && slot < shape_.num_slots);
    TESSERA_CHECK(weight.rows() == shape_.rows && weight.cols() == shape_.cols);
  }

 private:
  const ExpertTableShape shape_;
};

// Operations that were captured once, to be enqueued again as one: the same operations with the
// same arguments, on whatever the memory that these view holds by then.
class StepGraph {
 public:
  virtual ~StepGraph() = default;
  // Enqueues all of them. Memory that they view must not have been freed since the capture.
  virtual void Enqueue() = 0;
  virtual size_t bytes() const = 0;  // device memory that it took, as far as the device tells
};

// A rectangle of a stored matrix in host memory (a memory-mapped file, unaligned).
struct HostMatrix {
  const void* data = nullptr;
  DType dtype = DType::kBF16;  // kF32, kBF16 or kF16
  int64_t rows = 0;
  int64_t cols = 0;
  int64_t row_stride = 0;  // elements between rows, >= cols
  // What tells the values where `data` is gone once the weight is prepared: matrices of equal origin,
  // type and size hold equal values. Empty: where `data` is tells them.
  std::string origin;
};

// One weight made of parts stacked along rows (q, k, v; gate, up). All parts have the same cols.
// `pad_rows` zero rows follow. `dtype` is the precision to keep: kF32 keeps every bit of the source
// (a bf16 source may stay bf16), kBF16 rounds to bfloat16.
struct WeightSource {
  std::vector<HostMatrix> parts;
  int64_t pad_rows = 0;
  DType dtype = DType::kF32;
  // PrepareWeight is called by another thread than the one that drives the backend, which may be at
  // work: it takes no threads of the backend.
  bool background = false;
};

// K and V of one layer: [num_blocks, Nk, block_size, D] each, kF32 or kBF16.
struct KvLayer {
  TensorView k;
  TensorView v;
};

// out[t] = table[id - vocab_begin], zeros when the id is outside [vocab_begin, + table rows). The
// id is ids[t], or drawn[source[t]] where source[t] >= 0: a token that an earlier operation drew
// and that the host has not seen.
struct EmbedArgs {
  ConstTensorView ids;            // [T] int
  ConstTensorView source;         // [T] int, each below N; optional
  ConstTensorView drawn;          // [N] int, given with source
  const Weight* table = nullptr;  // [V on this rank, H]
  int32_t vocab_begin = 0;
  TensorView out;  // [T, H] act

  // On the host: the id of token t.
  int32_t IdOf(int64_t t) const {
    const int32_t row = source.empty() ? -1 : source.as<int32_t>()[t];
    return row < 0 ? ids.as<int32_t>()[t] : drawn.as<int32_t>()[row];
  }
};

// x += add (when given), then out = x / sqrt(mean(x^2) + eps) * weight. The residual stream is
// stored as act, and what is normalised is the stored, rounded sum: the same bits whether the
// addition is part of the norm or was an operation of its own. out is rounded once, after the
// weight.
struct RmsNormArgs {
  TensorView x;            // [T, H] act, the residual stream; written only when add is given
  ConstTensorView add;     // [T, H] act, optional
  ConstTensorView weight;  // [H] f32
  float eps = 1e-6F;
  TensorView out;  // [T, H] act
};

// out = x w^T (+ bias), rounded after the bias. x and out may be column ranges (row stride).
struct GemmArgs {
  ConstTensorView x;               // [M, K] act
  const Weight* weight = nullptr;  // [Nout, K]
  ConstTensorView bias;            // [Nout] f32, optional
  TensorView out;                  // [M, Nout] act or f32
};

// Rows sorted by expert: out[r] = x[row_index[r]] w_e^T for offsets[e] <= r < offsets[e + 1].
// Rows at or beyond offsets[E] are neither read nor written, nor are those of an empty slot.
struct GroupedGemmArgs {
  ConstTensorView x;                     // [M, K] act
  ConstTensorView row_index;             // [R] int, optional (absent: r itself)
  ConstTensorView offsets;               // [E + 1] int
  const ExpertTable* experts = nullptr;  // E slots [Nout, K]
  TensorView out;                        // [R, Nout] act
};

// Per head: q and k are RMS-normalised over D (weights q_norm, k_norm) and rotated (rotate-half
// pairing) at `positions`; q is written back in place; k and v go to the cache slots. q and k are
// rounded once, after the rotation, k to the cache's type.
// A slot is block * block_size + offset; slot -1 stores nothing.
struct QkNormRopeStoreKvArgs {
  TensorView qkv;                // [T, (Nq + 2 Nk) D] act: q heads, k heads, v heads
  ConstTensorView q_norm;        // [D] f32
  ConstTensorView k_norm;        // [D] f32
  ConstTensorView cos_sin;       // [max positions, D] f32: cos of D/2 pairs, then sin
  ConstTensorView positions;     // [T] int
  ConstTensorView slot_mapping;  // [T] int
  KvLayer kv;
  int32_t num_q_heads = 0;
  int32_t num_kv_heads = 0;
  float eps = 1e-6F;
};

// Causal attention over paged KV. Sequence s owns query rows [cu_seqlens[s], cu_seqlens[s + 1]);
// they are the last ones of its context_lens[s] positions, all already in the cache. Query head h
// reads KV head h / (Nq / Nk). Position j is visible from p iff j <= p (and j > p - window when
// window > 0). Scores, softmax and sums are fp32. A sequence with context 0 is padding: its query
// rows become zeros. Entries of a block table beyond the context are not looked at.
struct PagedAttentionArgs {
  ConstTensorView q;  // [T, Nq D] act (a column range of qkv)
  KvLayer kv;
  ConstTensorView block_tables;  // [S, max_blocks] int
  ConstTensorView cu_seqlens;    // [S + 1] int
  ConstTensorView context_lens;  // [S] int
  int32_t num_q_heads = 0;
  int32_t num_kv_heads = 0;
  int32_t window = 0;
  float scale = 1.0F;
  TensorView out;  // [T, Nq D] act
};

// out = silu(x[:, :F]) * x[:, F:]. With num_rows only the first *num_rows rows are touched.
struct SiluAndMulArgs {
  ConstTensorView x;         // [M, 2F] act
  ConstTensorView num_rows;  // [1] int, optional
  TensorView out;            // [M, F] act
};

// The k largest logits per row, descending; equal logits: lower index first. Weights are the fp32
// softmax over all experts, divided by the sum of the chosen ones when normalize. Rows t >= M and
// rows with first_row + t >= *num_rows are padding: ids -1, weights 0, whatever their logits hold.
struct RouteTopKArgs {
  ConstTensorView logits;  // [M, total experts] f32, M <= T
  bool normalize = true;
  int32_t first_row = 0;     // row of the batch that row 0 is
  ConstTensorView num_rows;  // [1] int, optional: rows of the batch that are tokens
  TensorView ids;            // [T, k] int
  TensorView weights;        // [T, k] f32
};

// Stable counting sort of the (token, j) pairs whose expert lies in [expert_begin, + E). A token
// names an expert once, so at most T min(k, E) pairs do; more of them are impossible data from a
// peer, INTERNAL as in kernels/core/expert_ops.h.
struct MoePermuteArgs {
  ConstTensorView ids;  // [T, k] int
  int32_t expert_begin = 0;
  int32_t num_experts = 0;  // E
  TensorView offsets;       // [E + 1] int
  TensorView row_token;     // [T min(k, E)] int: token of each sorted row
  TensorView positions;     // [T, k] int: sorted row of each pair, -1 when the expert is elsewhere
};

// out[i] = x[rows[i]], zeros where rows[i] is -1.
struct GatherRowsArgs {
  ConstTensorView x;     // [T, H]
  ConstTensorView rows;  // [N] int
  TensorView out;        // [N, H]
};

// For every pair i and every part c of the cache (K or V of a layer): block to[i] becomes a copy of
// block from[i]. A block that is copied to is in no other pair.
struct CopyBlocksArgs {
  TensorView cache;      // [C, num_blocks, elements of a block], contiguous
  ConstTensorView from;  // [P] int
  ConstTensorView to;    // [P] int
};

// Shards of the vocabulary side by side: out[n, r * W + c] = shards[r, n, c] where that is < V.
struct ConcatColumnsArgs {
  ConstTensorView shards;  // [R, N, W] f32
  TensorView out;          // [N, V] f32
};

// Sampling, one row per logits row. All per-row arrays live on the device and came with the plan.
//
// 1. Logprobs, rank and top-k alternatives are those of the raw logits' log-softmax.
// 2. penalties of rows with a penalty_slot, for every token that the slot lists: l = l > 0 ?
//    l / repetition : l * repetition; l -= frequency * count + (count > 0 ? presence : 0).
// 3. adjustments (adj_*): l += value (-inf bans); in list order. Then the mask: l = -inf for every
//    token whose bit in row mask_row[n] of masks is 0.
// 4. temperature 0 (or < 1e-5): argmax, lowest id on ties. Otherwise l /= temperature, then keep
//    the top_k largest (0 = all; ties at the limit: lower ids), then the smallest prefix of the
//    descending order whose share of what top_k left reaches top_p (at least one), then those with
//    probability >= min_p * the largest. Draw by Gumbel-max: argmax of l + g(seed, position, id)
//    with g = -log(-log(u)) and u from Philox 4x32-10 keyed by (seed, position, id)
//    (kernels/core/philox.h), so a request draws the same token in any batch and any layout.
// 5. forced[n] >= 0 replaces steps 2-4: that token is the result (its raw logprob is reported).
//    kPaddedRow: the row is padding, its token is -1 and nothing else of it is read or written.
//    kCandidateRow: nothing is drawn at random. Step 3's mask takes mask_penalty[n] from the tokens
//    whose bit is 0 (infinity bans them, as in other rows); the token is the argmax of what
//    results, and the alternatives are its largest: each reports its logit there less the
//    log-sum-exp of the raw row, so that nothing is renormalised. -inf is no alternative: -1 and
//    -inf. The row has temperature 0, no penalty_slot and num_logprobs >= 0.
// Slots (a row of penalty_listed and of penalty_counts) belong to the device and outlive the call:
// the sequence that owns one need not be known on the host to the last token. With penalty_reset[n]
// the slot first forgets what it held and takes the row's list (pen_*; empty for other rows). At
// the end the row's token, a forced one too, is listed and counted; -1 is not. Rows of a call have
// distinct slots.
// Rank and alternatives: equal logits by ascending id. Row n fills num_logprobs[n] alternatives (-1
// and -inf beyond the vocabulary) and leaves the rest of its K untouched.
// A row whose tokens are all banned or whose logits hold NaN or +inf yields token -1, logprob -inf,
// rank 0; in the latter case the alternatives are -1 and -inf too.
struct SampleArgs {
  static constexpr int32_t kPaddedRow = -2;
  static constexpr int32_t kCandidateRow = -3;

  TensorView logits;                   // [N, V] f32, scratch after the call
  ConstTensorView forced;              // [N] int, -1 = sample, or one of the above
  ConstTensorView temperature;         // [N] f32
  ConstTensorView top_k;               // [N] int
  ConstTensorView top_p;               // [N] f32
  ConstTensorView min_p;               // [N] f32
  ConstTensorView repetition_penalty;  // [N] f32
  ConstTensorView presence_penalty;    // [N] f32
  ConstTensorView frequency_penalty;   // [N] f32
  ConstTensorView seed;                // [N] i64
  ConstTensorView position;            // [N] int: index of the token to be drawn in its sequence
  ConstTensorView penalty_slot;        // [N] int, -1: no penalties
  ConstTensorView penalty_reset;       // [N] int, 1: begins anew
  TensorView penalty_listed;           // [slots, ceil(V / 32)] int in, out: bits of the tokens in
                                       // prompt or output (kernels/core/bit_mask.h)
  TensorView penalty_counts;           // [slots, V] int in, out: occurrences in the output; means
                                       // nothing for tokens that are not listed
  ConstTensorView pen_offsets;         // [N + 1] int into pen_tokens
  ConstTensorView pen_tokens;          // [P] int, distinct per row: tokens of prompt and output
  ConstTensorView pen_counts;          // [P] int, occurrences in the output (0: prompt only)
  ConstTensorView adj_offsets;         // [N + 1] int into adj_tokens
  ConstTensorView adj_tokens;          // [A] int
  ConstTensorView adj_values;          // [A] f32
  ConstTensorView masks;               // [M, ceil(V / 32)] int, bits of the allowed tokens
                          // (kernels/core/bit_mask.h); optional without rows that use it
  ConstTensorView mask_row;      // [N] int, row of masks, -1: every token is allowed
  ConstTensorView mask_penalty;  // [N] f32, of candidate rows
  ConstTensorView num_logprobs;  // [N] int: alternatives wanted, -1 = no logprobs at all
  TensorView token;              // [N] int out
  // Untouched for rows with num_logprobs -1:
  TensorView logprob;       // [N] f32 out
  TensorView rank;          // [N] int out, 1 = most likely
  TensorView top_tokens;    // [N, K] int out, K = largest num_logprobs (may be 0: empty view)
  TensorView top_logprobs;  // [N, K] f32 out
};

// One instance = one rank's device and its ordered queue. Used by one thread. Arguments are views
// into device memory; shape violations are CHECK failures (they are bugs, never input).
class Ops : public ExpertOps {
 public:
  virtual std::string_view name() const = 0;  // "ref", "cpu", "cuda"
  // Type of activations when the model runs in `model_dtype` (kF32 or kBF16): the same one, or a
  // more precise one where the backend is faster with it.
  virtual DType ActivationDType(DType model_dtype) const = 0;
  // INVALID_ARGUMENT for shapes or types the backend cannot hold, RESOURCE_EXHAUSTED for memory.
  // The source is read before the call returns. Any thread when the source says `background`.
  virtual absl::StatusOr<std::unique_ptr<Weight>> PrepareWeight(const WeightSource& source) = 0;
  // Threads that may call PrepareWeight at the same time, with `background` sources, while weights
  // are loaded: more than one where reading, converting and copying to a device can overlap.
  virtual int max_preparing_threads() const { return 1; }
  // RESOURCE_EXHAUSTED without room on the device. The table must not outlive the backend.
  virtual absl::StatusOr<std::unique_ptr<ExpertTable>> CreateExpertTable(
      const ExpertTableShape& shape) = 0;

  virtual void Embed(const EmbedArgs& args) = 0;
  virtual void RmsNorm(const RmsNormArgs& args) = 0;
  virtual void Gemm(const GemmArgs& args) = 0;
  virtual void GroupedGemm(const GroupedGemmArgs& args) = 0;
  virtual void QkNormRopeStoreKv(const QkNormRopeStoreKvArgs& args) = 0;
  virtual void PagedAttention(const PagedAttentionArgs& args) = 0;
  virtual void SiluAndMul(const SiluAndMulArgs& args) = 0;
  virtual void RouteTopK(const RouteTopKArgs& args) = 0;
  virtual void MoePermute(const MoePermuteArgs& args) = 0;
  virtual void GatherRows(const GatherRowsArgs& args) = 0;
  virtual void CopyBlocks(const CopyBlocksArgs& args) = 0;
  virtual void ConcatColumns(const ConcatColumnsArgs& args) = 0;
  virtual void Sample(const SampleArgs& args) = 0;

  // Largest head_dim that QkNormRopeStoreKv and PagedAttention can compute with.
  virtual int64_t max_head_dim() const { return std::numeric_limits<int64_t>::max(); }

  // Whether the shapes of a step shall be rounded up to buckets, so that the same ones come back (a
  // captured graph needs that). What pads is inert; see the operations.
  virtual bool PadsSteps() const { return false; }

  // Calls `enqueue` and keeps the operations that it enqueues instead of running them. It may do
  // nothing else to the device: no transfer, no wait, no allocation. Null, without a call, where
  // enqueuing again costs no more than a graph. An error breaks nothing: the operations can still
  // be enqueued one by one. The graph must not outlive the backend.
  virtual absl::StatusOr<std::unique_ptr<StepGraph>> Capture(
      absl::FunctionRef<void()> /*enqueue*/) {
    return nullptr;
  }

  // The operations of a step have been enqueued; what follows does not follow at once. A hint to
  // host threads that poll.
  virtual void Rest() {}
};

// The backends linked into this binary, chosen by name; the only place that knows them.
struct OpsOptions {
  std::string_view backend = "cpu";
  int num_threads = 1;    // host threads of this rank
  bool spin = true;       // idle threads may poll briefly: all ranks together fit the cores
  int device_index = 0;   // GPU of this rank, of those of its machine
  int emulated_gpus = 0;  // GPUs that this process emulates; 0: as many as the emulator offers
  // Products of GPUs: "ours", or "cublas" for NVIDIA's library, whose bits may depend on the batch.
  std::string_view gemm = "ours";
  // Of the queued backend: what a step takes at least, see QueuedDevice.
  absl::Duration queued_step_delay;
  // Vector instructions of the cpu backend: "portable", "avx2", "avx512", "avx512bf16" or "amx";
  // "auto": the fastest that this machine has.
  std::string_view cpu_isa = "auto";
  // Where ranks that share cores, and so their caches, also share equal weights; null: each rank
  // has its own. Sources are known by their addresses: while weights are still being prepared, an
  // address must not come to mean other bytes.
  std::shared_ptr<SharedBuffers> shared_weights;
};
// INVALID_ARGUMENT for names that are unknown here or that this machine cannot execute, with a
// sentence that says what is missing.
absl::StatusOr<std::unique_ptr<Ops>> CreateOps(const OpsOptions& options);
// What "auto" stands for on this machine: GPUs when the program can use one, else the CPU.
struct BackendChoice {
  std::string_view backend;
  std::string why;
};
BackendChoice ChooseBackend();
// Those that this machine can execute.
std::vector<std::string_view> LinkedBackends();
// Whether the backend's devices execute on the thread that enqueues, so that several ranks may
// share it; false for unknown names.
bool ExecutesAtOnce(std::string_view backend);
// Whether weights and caches lie in the host's memory; false for unknown names.
bool UsesHostMemory(std::string_view backend);

}  // namespace tessera

#endif  // TESSERA_KERNELS_OPS_H_
