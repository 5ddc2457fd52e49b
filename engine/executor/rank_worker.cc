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
  if (config.head_dim > ops->max_head_dim()) {
    return absl::InvalidArgumentError(
        absl::StrCat("head_dim is ", config.head_dim, "; the ", std::string(ops->name()),
                     " backend computes with at most ", ops->max_head_dim()));
  }
  std::unique_ptr<RankWorker> worker(new RankWorker(config, shard, options, std::move(ops)));
  ASSIGN_OR_RETURN(worker->links_, connect(&worker->ops_->device()));
  ASSIGN_OR_RETURN(ModelWeights weights,
                   LoadWeights(config, shard, options.dtype, *checkpoint, *worker->ops_, progress));
  ASSIGN_OR_RETURN(worker->model_,
                   Qwen3Model::Create(worker->config_, shard, std::move(weights),
                                      {.dtype = options.dtype,
                                       .max_tokens = options.max_tokens,
                                       .max_logits_rows = LogitsRowsPerPass(options.max_num_seqs),
                                       .max_positions = options.max_positions,
                                       .moving = {.interval = options.rebalance_interval,
                                                  .checkpoint = std::move(checkpoint),
                                                  .preparation = options.preparation}},
                                      worker->links_, *worker->ops_));
  RETURN_IF_ERROR(worker->AllocateStepBuffers());
  RETURN_IF_ERROR(worker->AllocateSampling());
  RETURN_IF_ERROR(worker->ops_->device().Synchronize());
  worker->times_ = worker->TimesSinceStart();  // what was measured at start is no step's
  return worker;
}

RankWorker::RankWorker(const ModelConfig& config, const ModelShard& shard,
                       const RankWorkerOptions& options, std::unique_ptr<Ops> ops)
    : config_(config),
      shard_(shard),
      options_(options),
      limits_{.max_tokens = options.max_tokens,
              .max_sequences = options.max_num_seqs,
              .max_blocks = (options.max_positions + options.block_size - 1) / options.block_size,
              .max_positions = options.max_positions,
              .vocab_size = config.vocab_size},
      ops_(std::move(ops)) {}

absl::Status RankWorker::AllocateStepBuffers() {
  ASSIGN_OR_RETURN(StepInputs inputs, StepInputs::Create(&ops_->device(), limits_));
  inputs_.emplace(std::move(inputs));
  const ResultLayout usual{limits_.max_tokens, ResultLayout::kUsualTop};
  return Reserve(&results_, usual.bytes(), "sampling results");
}

absl::Status RankWorker::AllocateSampling() {
  const int64_t vocab = config_.vocab_size;
  const size_t logits_bytes = LogitsRowsPerPass(options_.max_num_seqs) * vocab * sizeof(float);
  ASSIGN_OR_RETURN(logits_, ops_->device().Allocate(logits_bytes, "logits"));
  if (shard_.tp_rank != 0) return absl::OkStatus();
  const int64_t slots = options_.max_num_seqs;
  const int64_t words = MaskWords(vocab);
  const size_t counts_bytes = slots * vocab * sizeof(int32_t);
  ASSIGN_OR_RETURN(penalties_, ops_->device().Allocate(
                                   counts_bytes + slots * words * sizeof(int32_t), "penalties"));
  penalty_counts_ = penalties_.View(DType::kI32, {slots, vocab}, 0);
  penalty_listed_ = penalties_.View(DType::kI32, {slots, words}, counts_bytes);
  return absl::OkStatus();
}

// What is still enqueued uses the communicators and buffers that die before the device.
RankWorker::~RankWorker() {
  if (num_begun_ != num_finished_) Abort(absl::CancelledError("the rank has ended"));
  ops_->device().Synchronize().IgnoreError();
}

MemoryReport RankWorker::memory() const {
  const int64_t elements_per_layer =
      2 * int64_t{shard_.num_kv_heads} * options_.block_size * config_.head_dim;
  const DeviceMemory device = ops_->device().memory().value_or(DeviceMemory());
  return {.weight_bytes = model_->weight_bytes(),
          .buffer_bytes =
              model_->buffer_bytes() + static_cast<int64_t>(logits_.bytes() + penalties_.bytes()),
          .kv_block_bytes = elements_per_layer * config_.num_hidden_layers *
                            static_cast<int64_t>(SizeOf(options_.dtype)),
          .graph_bytes = wants_graphs() && graphs_.facts().count == 0
                             ? StepGraphs::MostBytes(limits_, config_.num_hidden_layers)
                             : 0,
          .device_bytes = device.total,
          .device_free_bytes = device.free};
}

void RankWorker::Abort(const absl::Status& reason) {
  for (Communicator* group : {links_.tp.get(), links_.world.get()}) {
    if (group != nullptr) group->Abort(reason);
  }
}

absl::Status RankWorker::AllocateKv(int32_t num_blocks) {
  RETURN_IF_ERROR(AllocateTrialKv(num_blocks));
  if (ExpertRebalancer* const balance = model_->balance()) {
    balance->CountAnew(/*exchanging=*/true);
    expert_rows_ = 0;
  }
  return CaptureGraphs();
}

absl::Status RankWorker::AllocateTrialKv(int32_t num_blocks) {
  graphs_.Clear();
  const size_t half = static_cast<size_t>(memory().kv_block_bytes) / 2 / config_.num_hidden_layers *
                      num_blocks;  // K or V of one layer
  kv_.clear();
  kv_storage_ = DeviceBuffer();  // there may not be room for both
  ASSIGN_OR_RETURN(kv_storage_, ops_->device().Allocate(2 * half * config_.num_hidden_layers,
                                                        absl::StrCat(num_blocks, " KV blocks")));
  const int64_t block = int64_t{shard_.num_kv_heads} * options_.block_size * config_.head_dim;
  cache_ = kv_storage_.View(options_.dtype, {2 * config_.num_hidden_layers, num_blocks, block}, 0);
  for (int32_t layer = 0; layer < config_.num_hidden_layers; ++layer) {
    const auto view = [&](size_t index) {
      return kv_storage_.View(
          options_.dtype, {num_blocks, shard_.num_kv_heads, options_.block_size, config_.head_dim},
          index * half);
    };
    kv_.push_back({.k = view(2 * size_t(layer)), .v = view(2 * size_t(layer) + 1)});
  }
  if (ExpertRebalancer* const balance = model_->balance()) {
    balance->CountAnew(/*exchanging=*/false);
  }
  return absl::OkStatus();
}

absl::Status RankWorker::CaptureGraphs() {
  if (!wants_graphs()) return absl::OkStatus();
  RETURN_IF_ERROR(graphs_.CaptureAll(
      {.ops = *ops_,
       .inputs = *inputs_,
       .limits = limits_,
       .wanted =
           [this](const StepExtents& extents) { return model_->OnlyEnqueues(extents.tokens); },
       .enqueue =
           [this](const StepViews& views) {
             StepViews complete = views;
             complete.forward.drawn_tokens = DrawnTokens();
             complete.forward.group_tokens.assign(shard_.dp_size,
                                                  static_cast<int32_t>(views.extents.tokens));
             EnqueueModel(complete);
           }}));
  return ops_->device().Synchronize();
}

// All ranks decide alike: by what every one knows of the whole step.
StepGraph* RankWorker::GraphOf(const StepViews& views) const {
  const bool timed = links_.world != nullptr && num_begun_ % options_.steps_per_timed_one == 0;
  return timed || !views.all_alike ? nullptr : graphs_.Find(views.extents);
}

absl::Status RankWorker::Reserve(DeviceBuffer* buffer, size_t bytes, const char* what) {
  if (buffer->bytes() >= bytes) return absl::OkStatus();
  *buffer = DeviceBuffer();
  ASSIGN_OR_RETURN(*buffer, ops_->device().Allocate(bytes, what));
  return absl::OkStatus();
}

absl::StatusOr<StepViews> RankWorker::UploadPlan(const StepPlan& plan) {
  std::vector<StepExtents> extents;
  if (ops_->PadsSteps()) {
    extents = GroupBuckets(plan, limits_);
  } else {
    for (const BatchPlan& group : plan.groups) extents.push_back(ExactExtents(group));
  }
  const BatchPlan& own = plan.groups[shard_.dp_rank];
  ASSIGN_OR_RETURN(StepViews views, inputs_->Upload(own, extents[shard_.dp_rank]));
  for (const StepExtents& group : extents) {
    views.forward.group_tokens.push_back(static_cast<int32_t>(group.tokens));
  }
  views.all_alike = std::count(extents.begin(), extents.end(), views.extents) ==
                    static_cast<int64_t>(extents.size());
  views.forward.drawn_tokens = DrawnTokens();
  // Only the first rank of a group draws.
  if (own.has_sources() && links_.tp != nullptr) {
    const UnderWay& before = under_way_[(num_begun_ + kMaxSteps - 1) % kMaxSteps];
    links_.tp->Broadcast(
        results_.View(DType::kI32, {before.padded_rows}, ResultLayout::kTokenOffset), 0);
  }
  return views;
}

absl::Status RankWorker::Begin(const StepPlan& plan) {
  TESSERA_CHECK(num_begun_ - num_finished_ < kMaxSteps);
  UnderWay& step = under_way_[num_begun_ % kMaxSteps];
  step.began = std::chrono::steady_clock::now();
  ASSIGN_OR_RETURN(const StepViews views, UploadPlan(plan));
  if (views.copy_from.dim(0) > 0) {
    ops_->CopyBlocks({.cache = cache_, .from = views.copy_from, .to = views.copy_to});
  }
  StepGraph* const graph = GraphOf(views);
  step.replayed = graph != nullptr;
  if (step.replayed) {
    graph->Enqueue();
  } else {
    EnqueueModel(views);
  }
  RETURN_IF_ERROR(EnqueueSampling(plan, views, &step));
  step.end = ops_->device().Record();
  ++num_begun_;
  return absl::OkStatus();
}

ConstTensorView RankWorker::DrawnTokens() const {
  return results_.View(DType::kI32, {limits_.max_tokens}, ResultLayout::kTokenOffset);
}

void RankWorker::EnqueueModel(const StepViews& views) {
  model_->Forward(views.forward, kv_);
  const TensorView logits = FirstLogits(views);
  if (logits.dim(0) > 0) model_->Logits(views.logits_rows.Rows(0, logits.dim(0)), logits);
}

TensorView RankWorker::FirstLogits(const StepViews& views) const {
  const int64_t count =
      std::min<int64_t>(views.extents.rows, LogitsRowsPerPass(options_.max_num_seqs));
  return logits_.View(DType::kF32, {count, config_.vocab_size});
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

absl::Status RankWorker::Health() {
  const UnderWay& step = under_way_[num_finished_ % kMaxSteps];
  const absl::Status status = ops_->device().Wait(step.end, absl::ZeroDuration());
  return absl::IsDeadlineExceeded(status) ? absl::OkStatus() : status;
}

absl::Status RankWorker::BetweenSteps() {
  ExpertRebalancer* const balance = model_->balance();
  return balance == nullptr ? absl::OkStatus() : balance->BetweenSteps();
}

CollectiveTimes RankWorker::TimesSinceStart() const {
  CollectiveTimes times{};
  for (const Communicator* group : {links_.tp.get(), links_.world.get()}) {
    if (group == nullptr) continue;
    for (size_t op = 0; op < kNumCollectiveOps; ++op) times[op] += group->times()[op];
  }
  return times;
}

RankReport RankWorker::Report(const UnderWay& step, absl::Duration step_time) {
  RankReport report{.rank = shard_.dp_rank * shard_.tp_size + shard_.tp_rank,
                    .step_seconds = static_cast<float>(absl::ToDoubleSeconds(step_time)),
                    .collectives_timed = !step.replayed};
  const absl::Duration idle = ops_->device().idle_time();
  report.host_gap_seconds =
      static_cast<float>(absl::ToDoubleSeconds(idle - std::exchange(idle_time_, idle)));
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

// Where Sample puts its results.
absl::Status RankWorker::SetResults(const ResultLayout& layout, SampleArgs* args) {
  const int64_t rows = layout.rows;
  args->token = results_.View(DType::kI32, {rows}, layout.token());
  args->logprob = results_.View(DType::kF32, {rows}, layout.logprob());
  args->rank = results_.View(DType::kI32, {rows}, layout.rank());
  if (layout.top == 0) return absl::OkStatus();
  const bool fits = HasRoom(layout);
  if (!fits) {
    RETURN_IF_ERROR(Reserve(&more_alternatives_, layout.top_bytes(), "sampling results"));
  }
  const DeviceBuffer& buffer = fits ? results_ : more_alternatives_;
  const size_t at = fits ? layout.top_tokens() : 0;
  const size_t section = layout.top_bytes() / 2;
  args->top_tokens = buffer.View(DType::kI32, {rows, layout.top}, at);
  args->top_logprobs = buffer.View(DType::kF32, {rows, layout.top}, at + section);
  return absl::OkStatus();
}

void RankWorker::DownloadResults(const ResultLayout& layout, UnderWay* step) {
  Device& device = ops_->device();
  const bool draws = shard_.tp_rank == 0;
  // Ranks that do not draw read the head only, and a dense model's not even that.
  const size_t head = model_->balance() == nullptr ? 0 : ResultLayout::kExpertRowsBytes;
  step->bytes.resize(draws ? layout.bytes() : head);
  const bool in_one = !draws || HasRoom(layout);
  device.Download(step->bytes.data(), results_.data(),
                  in_one ? step->bytes.size() : layout.top_tokens());
  if (in_one) return;
  device.Download(step->bytes.data() + layout.top_tokens(), more_alternatives_.data(),
                  layout.top_bytes());
}

// The first logits are there.
absl::Status RankWorker::EnqueueSampling(const StepPlan& plan, const StepViews& views,
                                         UnderWay* step) {
  const SamplingPlan& wanted = plan.groups[shard_.dp_rank].sampling;
  const int64_t count = views.logits_rows.dim(0);
  const int64_t vocab = config_.vocab_size;
  int32_t top = 0;
  for (int32_t n : wanted.num_logprobs) top = std::max(top, n);
  const ResultLayout layout{count, top};
  step->rows = static_cast<int64_t>(wanted.forced.size());
  step->padded_rows = count;
  step->num_top = top;
  ExpertRebalancer* const balance = model_->balance();
  if (balance != nullptr) balance->EndStep(results_.View(DType::kI64, {1}));

  SampleArgs all = views.sampling;
  RETURN_IF_ERROR(SetResults(layout, &all));
  // All ranks of the group compute the logits together; the first one draws.
  const bool draws = shard_.tp_rank == 0;
  step->logits.resize(draws && plan.return_logits ? count * vocab : 0);
  TensorView logits = FirstLogits(views);
  for (int64_t begin = 0; begin < count; begin += logits.dim(0)) {
    if (begin > 0) {
      logits = logits.Rows(0, std::min(count - begin, logits.dim(0)));
      model_->Logits(views.logits_rows.Rows(begin, logits.dim(0)), logits);
    }
    if (!draws) continue;
    if (plan.return_logits) {
      ops_->device().Download(step->logits.data() + begin * vocab, logits.data(),
                              logits.num_bytes());
    }
    SampleArgs args = SliceRows(all, begin, logits.dim(0));
    args.logits = logits;
    args.penalty_listed = penalty_listed_;
    args.penalty_counts = penalty_counts_;
    ops_->Sample(args);
  }
  ops_->Rest();
  DownloadResults(layout, step);
  return absl::OkStatus();
}

BatchResult RankWorker::TakeResults(UnderWay* step) const {
  if (shard_.tp_rank != 0) return {};
  const ResultLayout layout{step->padded_rows, step->num_top};
  BatchResult result{.num_top = step->num_top, .logits = std::move(step->logits)};
  if (!result.logits.empty()) result.logits.resize(step->rows * config_.vocab_size);
  Unpack(step->bytes, layout.token(), step->rows, &result.token);
  Unpack(step->bytes, layout.logprob(), step->rows, &result.logprob);
  Unpack(step->bytes, layout.rank(), step->rows, &result.rank);
  Unpack(step->bytes, layout.top_tokens(), step->rows * step->num_top, &result.top_tokens);
  Unpack(step->bytes, layout.top_logprobs(), step->rows * step->num_top, &result.top_logprobs);
  return result;
}

}  // namespace tessera
