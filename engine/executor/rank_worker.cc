#include "engine/executor/rank_worker.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/core/bit_mask.h"

namespace tessera {
namespace {

constexpr size_t kAlignment = 64;

// Host arrays packed one behind the other, to reach the device in a single upload.
class Packer {
 public:
  explicit Packer(std::vector<char>* staging) : staging_(*staging) { staging_.clear(); }

  template <typename T>
  size_t Add(const std::vector<T>& values) {
    const size_t offset = (staging_.size() + kAlignment - 1) / kAlignment * kAlignment;
    staging_.resize(offset + values.size() * sizeof(T));
    if (!values.empty()) {
      std::memcpy(staging_.data() + offset, values.data(), values.size() * sizeof(T));
    }
    return offset;
  }

 private:
  std::vector<char>& staging_;
};

// Where the arrays of a BatchPlan lie in the packed upload.
struct BatchOffsets {
  size_t token_count, token_ids, token_source, positions, slot_mapping, cu_seqlens, context_lens,
      block_tables, logits_rows;

  BatchOffsets(Packer& packer, const BatchPlan& plan)
      : token_count(packer.Add(std::vector<int32_t>{plan.num_tokens()})),
        token_ids(packer.Add(plan.token_ids)),
        token_source(packer.Add(plan.token_source)),
        positions(packer.Add(plan.positions)),
        slot_mapping(packer.Add(plan.slot_mapping)),
        cu_seqlens(packer.Add(plan.cu_seqlens)),
        context_lens(packer.Add(plan.context_lens)),
        block_tables(packer.Add(plan.block_tables)),
        logits_rows(packer.Add(plan.logits_rows)) {}
};

struct SamplingOffsets {
  size_t forced, temperature, top_k, top_p, min_p, repetition, presence, frequency, seed, position,
      num_logprobs, pen_offsets, pen_tokens, pen_counts, adj_offsets, adj_tokens, adj_values, masks,
      mask_row;

  SamplingOffsets(Packer& packer, const SamplingPlan& plan)
      : forced(packer.Add(plan.forced)),
        temperature(packer.Add(plan.temperature)),
        top_k(packer.Add(plan.top_k)),
        top_p(packer.Add(plan.top_p)),
        min_p(packer.Add(plan.min_p)),
        repetition(packer.Add(plan.repetition_penalty)),
        presence(packer.Add(plan.presence_penalty)),
        frequency(packer.Add(plan.frequency_penalty)),
        seed(packer.Add(plan.seed)),
        position(packer.Add(plan.position)),
        num_logprobs(packer.Add(plan.num_logprobs)),
        pen_offsets(packer.Add(plan.pen_offsets)),
        pen_tokens(packer.Add(plan.pen_tokens)),
        pen_counts(packer.Add(plan.pen_counts)),
        adj_offsets(packer.Add(plan.adj_offsets)),
        adj_tokens(packer.Add(plan.adj_tokens)),
        adj_values(packer.Add(plan.adj_values)),
        masks(packer.Add(plan.masks)),
        mask_row(packer.Add(plan.mask_row)) {}
};

SampleArgs SamplingViews(const DeviceBuffer& buffer, const SamplingOffsets& at,
                         const SamplingPlan& plan, int64_t vocab) {
  const auto rows = static_cast<int64_t>(plan.forced.size());
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
          .pen_offsets = buffer.View(DType::kI32, {rows + 1}, at.pen_offsets),
          .pen_tokens = buffer.View(DType::kI32, {penalties}, at.pen_tokens),
          .pen_counts = buffer.View(DType::kI32, {penalties}, at.pen_counts),
          .adj_offsets = buffer.View(DType::kI32, {rows + 1}, at.adj_offsets),
          .adj_tokens = buffer.View(DType::kI32, {adjustments}, at.adj_tokens),
          .adj_values = buffer.View(DType::kF32, {adjustments}, at.adj_values),
          .masks = buffer.View(DType::kI32, {plan.num_masks, MaskWords(vocab)}, at.masks),
          .mask_row = buffer.View(DType::kI32, {rows}, at.mask_row),
          .num_logprobs = buffer.View(DType::kI32, {rows}, at.num_logprobs)};
}

// The sampling inputs and outputs of rows [begin, begin + count).
SampleArgs SliceRows(const SampleArgs& all, int64_t begin, int64_t count) {
  SampleArgs args = all;
  for (ConstTensorView* view :
       {&args.forced, &args.temperature, &args.top_k, &args.top_p, &args.min_p,
        &args.repetition_penalty, &args.presence_penalty, &args.frequency_penalty, &args.seed,
        &args.position, &args.mask_row, &args.num_logprobs}) {
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

// Results lie in one buffer, section after section: the expert rows so far, an int64_t, then 4-byte
// elements.
struct ResultLayout {
  int64_t rows;
  int64_t top;

  static constexpr size_t kExpertRowsBytes = sizeof(int64_t);
  size_t token() const { return kExpertRowsBytes; }
  size_t logprob() const { return token() + rows * 4; }
  size_t rank() const { return token() + rows * 8; }
  size_t top_tokens() const { return token() + rows * 12; }
  size_t top_logprobs() const { return top_tokens() + rows * top * 4; }
  size_t bytes() const { return top_tokens() + rows * top * 8; }
};

template <typename T>
void Unpack(const std::vector<char>& bytes, size_t offset, int64_t count, std::vector<T>* out) {
  out->resize(count);
  if (count > 0) std::memcpy(out->data(), bytes.data() + offset, count * sizeof(T));
}

}  // namespace

absl::StatusOr<std::unique_ptr<RankWorker>> RankWorker::Create(
    const ModelConfig& config, const ModelShard& shard, const RankWorkerOptions& options,
    std::shared_ptr<Checkpoint> checkpoint, const ConnectRank& connect, std::unique_ptr<Ops> ops,
    const LoadProgress& progress) {
  std::unique_ptr<RankWorker> worker(new RankWorker(config, shard, options, std::move(ops)));
  ASSIGN_OR_RETURN(worker->links_, connect(&worker->ops_->device()));
  ASSIGN_OR_RETURN(ModelWeights weights,
                   LoadWeights(config, shard, options.dtype, *checkpoint, *worker->ops_, progress));
  ASSIGN_OR_RETURN(worker->model_,
                   Qwen3Model::Create(worker->config_, shard, std::move(weights),
                                      {.dtype = options.dtype,
                                       .max_tokens = options.max_tokens,
                                       .max_positions = options.max_positions,
                                       .moving = {.interval = options.rebalance_interval,
                                                  .checkpoint = std::move(checkpoint),
                                                  .preparation = options.preparation}},
                                      worker->links_, *worker->ops_));
  const size_t logits_bytes =
      size_t{Qwen3Model::kMaxLogitsRows} * config.vocab_size * sizeof(float);
  ASSIGN_OR_RETURN(worker->logits_, worker->ops_->device().Allocate(logits_bytes, "logits"));
  RETURN_IF_ERROR(worker->ops_->device().Synchronize());
  worker->times_ = worker->TimesSinceStart();  // what was measured at start is no step's
  return worker;
}

RankWorker::RankWorker(const ModelConfig& config, const ModelShard& shard,
                       const RankWorkerOptions& options, std::unique_ptr<Ops> ops)
    : config_(config), shard_(shard), options_(options), ops_(std::move(ops)) {}

// What is still enqueued uses the communicators and buffers that die before the device.
RankWorker::~RankWorker() {
  if (num_begun_ != num_finished_) Abort(absl::CancelledError("the rank has ended"));
  ops_->device().Synchronize().IgnoreError();
}

MemoryReport RankWorker::memory() const {
  const int64_t elements_per_layer =
      2 * int64_t{shard_.num_kv_heads} * options_.block_size * config_.head_dim;
  return {.weight_bytes = model_->weight_bytes(),
          .buffer_bytes = model_->buffer_bytes() + static_cast<int64_t>(logits_.bytes()),
          .kv_block_bytes = elements_per_layer * config_.num_hidden_layers *
                            static_cast<int64_t>(SizeOf(options_.dtype))};
}

void RankWorker::Abort(const absl::Status& reason) {
  for (Communicator* group : {links_.tp.get(), links_.dp.get(), links_.world.get()}) {
    if (group != nullptr) group->Abort(reason);
  }
}

absl::Status RankWorker::AllocateKv(int32_t num_blocks) {
  const size_t half = static_cast<size_t>(memory().kv_block_bytes) / 2 / config_.num_hidden_layers *
                      num_blocks;  // K or V of one layer
  ASSIGN_OR_RETURN(kv_storage_, ops_->device().Allocate(2 * half * config_.num_hidden_layers,
                                                        absl::StrCat(num_blocks, " KV blocks")));
  kv_.clear();
  for (int32_t layer = 0; layer < config_.num_hidden_layers; ++layer) {
    const auto view = [&](size_t index) {
      return kv_storage_.View(
          options_.dtype, {num_blocks, shard_.num_kv_heads, options_.block_size, config_.head_dim},
          index * half);
    };
    kv_.push_back({.k = view(2 * size_t(layer)), .v = view(2 * size_t(layer) + 1)});
  }
  return absl::OkStatus();
}

absl::Status RankWorker::Reserve(DeviceBuffer* buffer, size_t bytes, const char* what) {
  if (buffer->bytes() >= bytes) return absl::OkStatus();
  *buffer = DeviceBuffer();
  ASSIGN_OR_RETURN(*buffer, ops_->device().Allocate(bytes + bytes / 2, what));
  return absl::OkStatus();
}

absl::StatusOr<ForwardBatch> RankWorker::UploadPlan(const StepPlan& plan, SampleArgs* sampling,
                                                    ConstTensorView* logits_rows) {
  const BatchPlan& batch = plan.groups[shard_.dp_rank];
  Packer packer(&staging_);
  const BatchOffsets at(packer, batch);
  const SamplingOffsets sampling_at(packer, batch.sampling);
  RETURN_IF_ERROR(Reserve(&plan_, staging_.size(), "the step plan"));
  ops_->device().Upload(plan_.data(), staging_.data(), staging_.size());

  const int64_t tokens = batch.num_tokens();
  const int64_t sequences = batch.num_sequences();
  ForwardBatch forward{
      .num_tokens = batch.num_tokens(),
      .token_count = plan_.View(DType::kI32, {1}, at.token_count),
      .token_ids = plan_.View(DType::kI32, {tokens}, at.token_ids),
      .token_source = plan_.View(DType::kI32, {tokens}, at.token_source),
      .positions = plan_.View(DType::kI32, {tokens}, at.positions),
      .slot_mapping = plan_.View(DType::kI32, {tokens}, at.slot_mapping),
      .cu_seqlens = plan_.View(DType::kI32, {sequences + 1}, at.cu_seqlens),
      .context_lens = plan_.View(DType::kI32, {sequences}, at.context_lens),
      .block_tables = plan_.View(DType::kI32, {sequences, batch.max_blocks}, at.block_tables)};
  for (const BatchPlan& group : plan.groups) forward.group_tokens.push_back(group.num_tokens());
  *logits_rows = plan_.View(DType::kI32, {batch.num_logits()}, at.logits_rows);
  *sampling = SamplingViews(plan_, sampling_at, batch.sampling, config_.vocab_size);
  return forward;
}

absl::Status RankWorker::Begin(const StepPlan& plan) {
  TESSERA_CHECK(num_begun_ - num_finished_ < kMaxSteps);
  UnderWay& step = under_way_[num_begun_ % kMaxSteps];
  step.began = std::chrono::steady_clock::now();
  SampleArgs sampling;
  ConstTensorView logits_rows;
  ASSIGN_OR_RETURN(ForwardBatch batch, UploadPlan(plan, &sampling, &logits_rows));
  if (plan.groups[shard_.dp_rank].has_sources()) batch.drawn_tokens = TokensOfStepBefore();
  model_->Forward(batch, kv_);
  RETURN_IF_ERROR(EnqueueSampling(plan, sampling, logits_rows, &step));
  step.end = ops_->device().Record();
  ops_->Rest();
  ++num_begun_;
  return absl::OkStatus();
}

// Only the first rank of a group draws.
ConstTensorView RankWorker::TokensOfStepBefore() {
  const UnderWay& before = under_way_[(num_begun_ + kMaxSteps - 1) % kMaxSteps];
  const ResultLayout layout{before.rows, before.num_top};
  const TensorView tokens = before.results.View(DType::kI32, {before.rows}, layout.token());
  if (links_.tp != nullptr) links_.tp->Broadcast(tokens, 0);
  return tokens;
}

absl::StatusOr<RankWorkerResult> RankWorker::Finish(absl::Duration limit) {
  UnderWay& step = under_way_[num_finished_ % kMaxSteps];
  RETURN_IF_ERROR(ops_->device().Wait(step.end, limit));
  ++num_finished_;
  RankWorkerResult result{.batch = TakeResults(&step)};
  if (ExpertRebalancer* const balance = model_->balance()) {
    result.expert_loads = balance->TakeLoads();
  }
  // The device was the step's own since the one before ended.
  const auto now = std::chrono::steady_clock::now();
  const auto start = std::max(step.began, std::exchange(last_end_, now));
  result.report = Report(step, absl::FromChrono(now - start));
  return result;
}

absl::Status RankWorker::BetweenSteps() {
  ExpertRebalancer* const balance = model_->balance();
  return balance == nullptr ? absl::OkStatus() : balance->BetweenSteps();
}

CollectiveTimes RankWorker::TimesSinceStart() const {
  CollectiveTimes times{};
  for (const Communicator* group : {links_.tp.get(), links_.dp.get(), links_.world.get()}) {
    if (group == nullptr) continue;
    for (size_t op = 0; op < kNumCollectiveOps; ++op) times[op] += group->times()[op];
  }
  return times;
}

RankReport RankWorker::Report(const UnderWay& step, absl::Duration step_time) {
  RankReport report{.rank = shard_.dp_rank * shard_.tp_size + shard_.tp_rank,
                    .step_seconds = static_cast<float>(absl::ToDoubleSeconds(step_time))};
  const CollectiveTimes before = std::exchange(times_, TimesSinceStart());
  for (size_t op = 0; op < kNumCollectiveOps; ++op) {
    report.collective_seconds[op] = static_cast<float>(times_[op] - before[op]);
  }
  if (ExpertRebalancer* const balance = model_->balance()) {
    int64_t so_far = 0;
    std::memcpy(&so_far, step.bytes.data(), sizeof(so_far));
    report.expert_rows = so_far - std::exchange(expert_rows_, so_far);
    report.moved_bytes =
        balance->moved_bytes() - std::exchange(moved_bytes_, balance->moved_bytes());
  }
  return report;
}

absl::Status RankWorker::EnqueueSampling(const StepPlan& plan, const SampleArgs& inputs,
                                         ConstTensorView rows, UnderWay* step) {
  const SamplingPlan& wanted = plan.groups[shard_.dp_rank].sampling;
  const int64_t count = rows.dim(0);
  const int64_t vocab = config_.vocab_size;
  int32_t top = 0;
  for (int32_t n : wanted.num_logprobs) top = std::max(top, n);
  const ResultLayout layout{count, top};
  RETURN_IF_ERROR(Reserve(&step->results, layout.bytes(), "sampling results"));
  step->rows = count;
  step->num_top = top;
  ExpertRebalancer* const balance = model_->balance();
  if (balance != nullptr) balance->EndStep(step->results.View(DType::kI64, {1}));

  SampleArgs all = inputs;
  all.token = step->results.View(DType::kI32, {count}, layout.token());
  all.logprob = step->results.View(DType::kF32, {count}, layout.logprob());
  all.rank = step->results.View(DType::kI32, {count}, layout.rank());
  if (top > 0) {
    all.top_tokens = step->results.View(DType::kI32, {count, top}, layout.top_tokens());
    all.top_logprobs = step->results.View(DType::kF32, {count, top}, layout.top_logprobs());
  }
  // All ranks of the group compute the logits together; the first one draws.
  const bool draws = shard_.tp_rank == 0;
  step->logits.resize(draws && plan.return_logits ? count * vocab : 0);
  for (int64_t begin = 0; begin < count; begin += Qwen3Model::kMaxLogitsRows) {
    const int64_t part = std::min<int64_t>(count - begin, Qwen3Model::kMaxLogitsRows);
    const TensorView logits = logits_.View(DType::kF32, {part, vocab});
    model_->Logits(rows.Rows(begin, part), logits);
    if (!draws) continue;
    if (plan.return_logits) {
      ops_->device().Download(step->logits.data() + begin * vocab, logits.data(),
                              logits.num_bytes());
    }
    SampleArgs args = SliceRows(all, begin, part);
    args.logits = logits;
    ops_->Sample(args);
  }
  // Ranks that do not draw read the head only, and a dense model's not even that.
  const size_t head = balance == nullptr ? 0 : ResultLayout::kExpertRowsBytes;
  step->bytes.resize(draws ? layout.bytes() : head);
  ops_->device().Download(step->bytes.data(), step->results.data(), step->bytes.size());
  return absl::OkStatus();
}

BatchResult RankWorker::TakeResults(UnderWay* step) const {
  if (shard_.tp_rank != 0) return {};
  const ResultLayout layout{step->rows, step->num_top};
  BatchResult result{.num_top = step->num_top, .logits = std::move(step->logits)};
  Unpack(step->bytes, layout.token(), step->rows, &result.token);
  Unpack(step->bytes, layout.logprob(), step->rows, &result.logprob);
  Unpack(step->bytes, layout.rank(), step->rows, &result.rank);
  Unpack(step->bytes, layout.top_tokens(), step->rows * step->num_top, &result.top_tokens);
  Unpack(step->bytes, layout.top_logprobs(), step->rows * step->num_top, &result.top_logprobs);
  return result;
}

}  // namespace tessera
