#include "engine/executor/step_buffers.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/types.h"
#include "kernels/core/bit_mask.h"
#include "kernels/core/status_macros.h"

namespace tessera {
namespace {

constexpr size_t kAlignment = 64;
static_assert(kCandidateRow == SampleArgs::kCandidateRow);

// Host arrays packed one behind the other, to reach the device in a single upload.
class Packer {
 public:
  explicit Packer(std::vector<char>* staging) : staging_(*staging) { staging_.clear(); }

  template <typename T>
  size_t Add(const std::vector<T>& values) {
    return Add(values, static_cast<int64_t>(values.size()), T());
  }
  // `count` elements: those that `values` does not have are `pad`.
  template <typename T>
  size_t Add(const std::vector<T>& values, int64_t count, T pad) {
    const size_t offset = (staging_.size() + kAlignment - 1) / kAlignment * kAlignment;
    staging_.resize(offset + count * sizeof(T));
    T* to = reinterpret_cast<T*>(staging_.data() + offset);
    std::copy(values.begin(), values.end(), to);
    std::fill(to + values.size(), to + count, pad);
    return offset;
  }

 private:
  std::vector<char>& staging_;
};

// Row offsets of the padded sequences: each has the next padded token as long as there are some,
// the last one all that are left.
std::vector<int32_t> PaddedOffsets(const std::vector<int32_t>& offsets,
                                   const StepExtents& extents) {
  std::vector<int32_t> padded = offsets;
  const auto tokens = static_cast<int32_t>(extents.tokens);
  while (static_cast<int64_t>(padded.size()) <= extents.sequences) {
    const bool last = static_cast<int64_t>(padded.size()) == extents.sequences;
    padded.push_back(last ? tokens : std::min(padded.back() + 1, tokens));
  }
  return padded;
}

// [S, max_blocks] as [padded S, padded max_blocks].
std::vector<int32_t> PaddedTables(const BatchPlan& plan, const StepExtents& extents) {
  if (plan.max_blocks == extents.max_blocks) return plan.block_tables;  // more rows come at the end
  std::vector<int32_t> padded(plan.num_sequences() * extents.max_blocks, -1);
  for (int64_t s = 0; s < plan.num_sequences(); ++s) {
    std::copy_n(plan.block_tables.begin() + s * plan.max_blocks, plan.max_blocks,
                padded.begin() + s * extents.max_blocks);
  }
  return padded;
}

struct BatchOffsets {
  size_t token_count, token_ids, token_source, positions, slot_mapping, cu_seqlens, context_lens,
      block_tables, logits_rows;

  BatchOffsets(Packer& packer, const BatchPlan& plan, const StepExtents& to)
      : token_count(packer.Add(std::vector<int32_t>{plan.num_tokens()})),
        token_ids(packer.Add(plan.token_ids, to.tokens, -1)),
        token_source(packer.Add(plan.token_source, to.tokens, -1)),
        positions(packer.Add(plan.positions, to.tokens, 0)),
        slot_mapping(packer.Add(plan.slot_mapping, to.tokens, -1)),
        cu_seqlens(packer.Add(PaddedOffsets(plan.cu_seqlens, to))),
        context_lens(packer.Add(plan.context_lens, to.sequences, 0)),
        block_tables(packer.Add(PaddedTables(plan, to), to.sequences * to.max_blocks, -1)),
        logits_rows(packer.Add(plan.logits_rows, to.rows, -1)) {}
};

struct SamplingOffsets {
  size_t forced, temperature, top_k, top_p, min_p, repetition, presence, frequency, seed, position,
      num_logprobs, penalty_slot, penalty_reset, mask_row, mask_penalty, pen_offsets, adj_offsets;
  size_t pen_tokens, pen_counts, adj_tokens, adj_values, masks;  // lists

  SamplingOffsets(Packer& packer, const SamplingPlan& plan, int64_t rows)
      : forced(packer.Add(plan.forced, rows, SampleArgs::kPaddedRow)),
        temperature(packer.Add(plan.temperature, rows, 0.0F)),
        top_k(packer.Add(plan.top_k, rows, 0)),
        top_p(packer.Add(plan.top_p, rows, 1.0F)),
        min_p(packer.Add(plan.min_p, rows, 0.0F)),
        repetition(packer.Add(plan.repetition_penalty, rows, 1.0F)),
        presence(packer.Add(plan.presence_penalty, rows, 0.0F)),
        frequency(packer.Add(plan.frequency_penalty, rows, 0.0F)),
        seed(packer.Add(plan.seed, rows, int64_t{0})),
        position(packer.Add(plan.position, rows, 0)),
        num_logprobs(packer.Add(plan.num_logprobs, rows, -1)),
        penalty_slot(packer.Add(plan.penalty_slot, rows, -1)),
        penalty_reset(packer.Add(plan.penalty_reset, rows, 0)),
        mask_row(packer.Add(plan.mask_row, rows, -1)),
        mask_penalty(packer.Add(plan.mask_penalty, rows, 0.0F)),
        pen_offsets(packer.Add(plan.pen_offsets, rows + 1, plan.pen_offsets.back())),
        adj_offsets(packer.Add(plan.adj_offsets, rows + 1, plan.adj_offsets.back())),
        pen_tokens(packer.Add(plan.pen_tokens)),
        pen_counts(packer.Add(plan.pen_counts)),
        adj_tokens(packer.Add(plan.adj_tokens)),
        adj_values(packer.Add(plan.adj_values)),
        masks(packer.Add(plan.masks)) {}
};

SampleArgs SamplingViews(const DeviceBuffer& buffer, const SamplingOffsets& at,
                         const SamplingPlan& plan, const StepExtents& extents, int64_t vocab) {
  const int64_t rows = extents.rows;
  const auto penalties = static_cast<int64_t>(plan.pen_tokens.size());
  const auto adjustments = static_cast<int64_t>(plan.adj_tokens.size());
  return {.forced = buffer.View(DType::kI32, {rows}, at.forced),
          .temperature = buffer.View(DType::kF32, {rows}, at.temperature),
          .top_k = buffer.View(DType::kI32, {rows}, at.top_k),
          .top_p = buffer.View(DType::kF32, {rows}, at.top_p),
          .min_p = buffer.View(DType::kF32, {rows}, at.min_p),
          .repetition_penalty = buffer.View(DType::kF32, {rows}, at.repetition),
          .presence_penalty = buffer.View(DType::kF32, {rows}, at.presence),
          .frequency_penalty = buffer.View(DType::kF32, {rows}, at.frequency),
          .seed = buffer.View(DType::kI64, {rows}, at.seed),
          .position = buffer.View(DType::kI32, {rows}, at.position),
          .penalty_slot = buffer.View(DType::kI32, {rows}, at.penalty_slot),
          .penalty_reset = buffer.View(DType::kI32, {rows}, at.penalty_reset),
          .pen_offsets = buffer.View(DType::kI32, {rows + 1}, at.pen_offsets),
          .pen_tokens = buffer.View(DType::kI32, {penalties}, at.pen_tokens),
          .pen_counts = buffer.View(DType::kI32, {penalties}, at.pen_counts),
          .adj_offsets = buffer.View(DType::kI32, {rows + 1}, at.adj_offsets),
          .adj_tokens = buffer.View(DType::kI32, {adjustments}, at.adj_tokens),
          .adj_values = buffer.View(DType::kF32, {adjustments}, at.adj_values),
          .masks = buffer.View(DType::kI32, {plan.num_masks, MaskWords(vocab)}, at.masks),
          .mask_row = buffer.View(DType::kI32, {rows}, at.mask_row),
          .mask_penalty = buffer.View(DType::kF32, {rows}, at.mask_penalty),
          .num_logprobs = buffer.View(DType::kI32, {rows}, at.num_logprobs)};
}

// The largest step there can be, without its lists.
StepExtents LargestExtents(const StepLimits& limits) {
  return {.tokens = limits.max_tokens,
          .sequences = int64_t{limits.max_sequences} + 1,  // one for padded tokens
          .max_blocks = limits.max_blocks,
          .rows = limits.max_tokens};
}

// Of what only the sampling of some steps needs.
int64_t MaxListWords(const StepLimits& limits) {
  return 2 * MaxListedTokens(limits.max_tokens, limits.max_positions) +
         limits.max_sequences * (2 + 2 * kMaxRowAdjustments + MaskWords(limits.vocab_size));
}

}  // namespace

int64_t BatchBucket(int64_t count, int64_t limit) {
  const int64_t bucket =
      count <= 8 ? static_cast<int64_t>(std::bit_ceil(uint64_t(count))) : (count + 7) / 8 * 8;
  return count == 0 ? 0 : std::min(bucket, limit);
}

int64_t TableBucket(int64_t blocks, int64_t limit) {
  constexpr int64_t kFewest = 16;
  constexpr int64_t kGrowth = 4;
  int64_t bucket = kFewest;
  while (bucket < blocks) bucket *= kGrowth;
  return std::min(bucket, limit);
}

StepExtents ExactExtents(const BatchPlan& plan) {
  return {.tokens = plan.num_tokens(),
          .sequences = plan.num_sequences(),
          .max_blocks = plan.max_blocks,
          .rows = plan.num_logits()};
}

StepExtents BucketExtents(const BatchPlan& plan, const StepLimits& limits) {
  const StepExtents exact = ExactExtents(plan);
  StepExtents bucket{.tokens = BatchBucket(exact.tokens, limits.max_tokens),
                     .rows = BatchBucket(exact.rows, limits.max_tokens)};
  const bool decodes = exact.tokens == exact.sequences;
  if (decodes) {
    bucket.tokens = BatchBucket(exact.sequences, limits.max_sequences);
    bucket.sequences = bucket.rows = bucket.tokens;
    bucket.max_blocks = TableBucket(exact.max_blocks, limits.max_blocks);
  } else {
    bucket.max_blocks = std::min<int64_t>(
        static_cast<int64_t>(std::bit_ceil(uint64_t(exact.max_blocks))), limits.max_blocks);
    const int64_t padding = bucket.tokens > exact.tokens ? 1 : 0;
    bucket.sequences = BatchBucket(exact.sequences + padding, int64_t{limits.max_sequences} + 1);
  }
  return bucket;
}

std::vector<StepExtents> GroupBuckets(const StepPlan& plan, const StepLimits& limits) {
  std::vector<StepExtents> buckets;
  StepExtents most;
  bool decodes = true;
  for (const BatchPlan& group : plan.groups) {
    buckets.push_back(BucketExtents(group, limits));
    decodes &= group.num_tokens() == group.num_sequences();
    most.tokens = std::max(most.tokens, buckets.back().tokens);
    most.max_blocks = std::max(most.max_blocks, buckets.back().max_blocks);
  }
  most.sequences = most.rows = most.tokens;
  if (decodes) std::fill(buckets.begin(), buckets.end(), most);
  return buckets;
}

std::vector<StepExtents> DecodeBuckets(const StepLimits& limits) {
  const int64_t most = std::min(limits.max_sequences, limits.max_tokens);
  std::vector<StepExtents> buckets;
  for (int64_t tokens = 0; tokens < most;) {
    tokens = BatchBucket(tokens + 1, most);
    for (int64_t blocks = 0; blocks < limits.max_blocks;) {
      blocks = TableBucket(blocks + 1, limits.max_blocks);
      buckets.push_back(
          {.tokens = tokens, .sequences = tokens, .max_blocks = blocks, .rows = tokens});
    }
  }
  return buckets;
}

BatchPlan EmptyPlan() {
  return {.cu_seqlens = {0}, .sampling = {.pen_offsets = {0}, .adj_offsets = {0}}};
}

int64_t StepInputs::Bytes(const StepLimits& limits) {
  const StepExtents most = LargestExtents(limits);
  constexpr int64_t kArrays = 40;  // more than there are; each begins at a multiple of kAlignment
  constexpr int64_t kTokenWords = 4;
  constexpr int64_t kRowWords = 19;  // the seed has two
  const int64_t words = 2 + kTokenWords * most.tokens + most.sequences * (2 + most.max_blocks) +
                        kRowWords * most.rows + 2 + MaxListWords(limits);
  return words * int64_t{sizeof(int32_t)} + kArrays * static_cast<int64_t>(kAlignment);
}

absl::StatusOr<StepInputs> StepInputs::Create(Device* device, const StepLimits& limits) {
  StepInputs inputs(device, limits);
  ASSIGN_OR_RETURN(inputs.buffer_, device->Allocate(Bytes(limits), "the step plan"));
  inputs.staging_.reserve(Bytes(limits));
  return inputs;
}

absl::StatusOr<StepViews> StepInputs::Upload(const BatchPlan& plan, const StepExtents& extents) {
  Packer packer(&staging_);
  const BatchOffsets at(packer, plan, extents);
  const SamplingOffsets sampling_at(packer, plan.sampling, extents.rows);
  const size_t copy_from = packer.Add(plan.copy_from);
  const size_t copy_to = packer.Add(plan.copy_to);
  if (staging_.size() > buffer_.bytes()) {
    return absl::InvalidArgumentError(absl::StrCat("the step's arrays have ", staging_.size(),
                                                   " bytes, there is room for ", buffer_.bytes()));
  }
  device_->Upload(buffer_.data(), staging_.data(), staging_.size());
  const auto ints = [&](std::initializer_list<int64_t> dims, size_t offset) {
    return buffer_.View(DType::kI32, dims, offset);
  };
  return StepViews{
      .extents = extents,
      .forward = {.num_tokens = static_cast<int32_t>(extents.tokens),
                  .token_count = ints({1}, at.token_count),
                  .token_ids = ints({extents.tokens}, at.token_ids),
                  .token_source = ints({extents.tokens}, at.token_source),
                  .positions = ints({extents.tokens}, at.positions),
                  .slot_mapping = ints({extents.tokens}, at.slot_mapping),
                  .cu_seqlens = ints({extents.sequences + 1}, at.cu_seqlens),
                  .context_lens = ints({extents.sequences}, at.context_lens),
                  .block_tables = ints({extents.sequences, extents.max_blocks}, at.block_tables)},
      .logits_rows = ints({extents.rows}, at.logits_rows),
      .copy_from = ints({static_cast<int64_t>(plan.copy_from.size())}, copy_from),
      .copy_to = ints({static_cast<int64_t>(plan.copy_to.size())}, copy_to),
      .sampling = SamplingViews(buffer_, sampling_at, plan.sampling, extents, limits_.vocab_size)};
}

SampleArgs SliceRows(const SampleArgs& all, int64_t begin, int64_t count) {
  SampleArgs args = all;
  for (ConstTensorView* view :
       {&args.forced, &args.temperature, &args.top_k, &args.top_p, &args.min_p,
        &args.repetition_penalty, &args.presence_penalty, &args.frequency_penalty, &args.seed,
        &args.position, &args.penalty_slot, &args.penalty_reset, &args.mask_row, &args.mask_penalty,
        &args.num_logprobs}) {
    *view = view->Rows(begin, count);
  }
  // Offsets point into the shared lists, so only the window moves.
  args.pen_offsets = args.pen_offsets.Rows(begin, count + 1);
  args.adj_offsets = args.adj_offsets.Rows(begin, count + 1);
  for (TensorView* view : {&args.token, &args.logprob, &args.rank}) {
    *view = view->Rows(begin, count);
  }
  if (!args.top_tokens.empty()) {
    args.top_tokens = args.top_tokens.Rows(begin, count);
    args.top_logprobs = args.top_logprobs.Rows(begin, count);
  }
  return args;
}

}  // namespace tessera
