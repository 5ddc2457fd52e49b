#include "tests/bench/counted_step.h"

#include <algorithm>
#include <memory>
#include <utility>

#include "engine/model/qwen3.h"
#include "engine/planning/step_model.h"
#include "kernels/core/status_macros.h"
#include "parallel/communicator.h"

namespace tessera {
namespace {

// Every collective is written down with what a ring would send, whatever the transport does.
class CountingCommunicator : public Communicator {
 public:
  CountingCommunicator(CountingOps& ops, int size) : ops_(ops), size_(size) {}

  int rank() const override { return 0; }
  int size() const override { return size_; }
  void AllReduce(TensorView data) override {
    Add("all_reduce", 2 * Share(static_cast<double>(data.num_bytes())));
  }
  void AllGather(absl::Span<const AllGatherPart> parts) override {
    double bytes = 0;
    for (const AllGatherPart& part : parts) bytes += static_cast<double>(part.out.num_bytes());
    Add("all_gather", Share(bytes));
  }
  void Gather(ConstTensorView in, TensorView /*out*/, int /*root*/) override {
    Add("gather", static_cast<double>(in.num_bytes()));
  }
  void ReduceScatter(ConstTensorView in, TensorView /*out*/) override {
    Add("reduce_scatter", Share(static_cast<double>(in.num_bytes())));
  }
  void AllToAll(absl::Span<const AllToAllPart> parts) override {
    double bytes = 0;
    for (const AllToAllPart& part : parts) bytes += static_cast<double>(part.in.num_bytes());
    Add("all_to_all", Share(bytes));
  }
  void AllToAllV(absl::Span<const AllToAllPart> parts, ConstTensorView /*send_counts*/,
                 TensorView /*recv_counts*/) override {
    AllToAll(parts);
  }
  void Broadcast(TensorView data, int /*root*/) override {
    Add("broadcast", static_cast<double>(data.num_bytes()));
  }
  void Barrier() override { Add("barrier", 0); }
  CollectiveTimes times() const override { return {}; }
  void Abort(const absl::Status& /*reason*/) override {}
  absl::Status Health() const override { return absl::OkStatus(); }

 private:
  double Share(double bytes) const { return bytes * (size_ - 1) / size_; }
  void Add(std::string_view name, double sent) {
    ops_.Add({.name = name, .sent = sent, .ranks = size_});
  }

  CountingOps& ops_;
  const int size_;
};

RankLinks Links(CountingOps& ops, const ModelShard& shard) {
  const int world = shard.tp_size * shard.dp_size;
  RankLinks links{.moe_comm = MoeComm::kAllReduce};
  if (shard.tp_size > 1) links.tp = std::make_unique<CountingCommunicator>(ops, shard.tp_size);
  if (world > 1) links.world = std::make_unique<CountingCommunicator>(ops, world);
  return links;
}

// The weights of a rank without a checkpoint, in the shapes of engine/model/weights.h.
class WeightShapes {
 public:
  WeightShapes(const ModelConfig& config, const ModelShard& shard, CountingOps& ops)
      : config_(config), shard_(shard), ops_(ops) {}

  absl::StatusOr<ModelWeights> All() {
    ModelWeights weights;
    weights.embedding = ops_.MakeWeight(shard_.vocab_rows, config_.hidden_size);
    if (!config_.tie_word_embeddings) {
      weights.lm_head = ops_.MakeWeight(shard_.vocab_rows, config_.hidden_size);
    }
    for (const bool is_moe : config_.layer_is_moe) {
      ASSIGN_OR_RETURN(LayerWeights layer, Layer(is_moe));
      weights.layers.push_back(std::move(layer));
    }
    ASSIGN_OR_RETURN(weights.final_norm, Vector(config_.hidden_size));
    return weights;
  }

 private:
  absl::StatusOr<DeviceVector> Vector(int64_t size) {
    DeviceVector vector;
    ASSIGN_OR_RETURN(vector.buffer, ops_.device().Allocate(size * sizeof(float), "a vector"));
    vector.view = vector.buffer.View(DType::kF32, {size});
    return vector;
  }

  absl::StatusOr<ExpertSlots> Slots(int64_t rows, int64_t cols) {
    ExpertSlots slots;
    ASSIGN_OR_RETURN(
        slots.table,
        ops_.CreateExpertTable({.num_slots = shard_.expert_slots, .rows = rows, .cols = cols}));
    slots.weights.resize(shard_.expert_slots);
    for (int32_t slot = 0; slot < shard_.num_experts; ++slot) {
      slots.Set(slot, ops_.MakeWeight(rows, cols));
    }
    return slots;
  }

  absl::StatusOr<LayerWeights> Layer(bool is_moe) {
    const int64_t hidden = config_.hidden_size;
    const int64_t head_dim = config_.head_dim;
    const int64_t q_width = shard_.num_q_heads * head_dim;
    const int64_t qkv_width = q_width + 2 * shard_.num_kv_heads * head_dim;
    LayerWeights layer;
    ASSIGN_OR_RETURN(layer.input_norm, Vector(hidden));
    ASSIGN_OR_RETURN(layer.post_attention_norm, Vector(hidden));
    ASSIGN_OR_RETURN(layer.q_norm, Vector(head_dim));
    ASSIGN_OR_RETURN(layer.k_norm, Vector(head_dim));
    if (config_.attention_bias) {
      ASSIGN_OR_RETURN(layer.qkv_bias, Vector(qkv_width));
      ASSIGN_OR_RETURN(layer.o_bias, Vector(hidden));
    }
    layer.qkv = ops_.MakeWeight(qkv_width, hidden);
    layer.o = ops_.MakeWeight(hidden, q_width);
    if (!is_moe) {
      layer.mlp = {.gate_up = ops_.MakeWeight(2 * int64_t{shard_.ffn_size}, hidden),
                   .down = ops_.MakeWeight(hidden, shard_.ffn_size)};
      return layer;
    }
    layer.moe.router = ops_.MakeWeight(config_.num_experts, hidden);
    ASSIGN_OR_RETURN(layer.moe.gate_up, Slots(2 * int64_t{shard_.moe_ffn_size}, hidden));
    ASSIGN_OR_RETURN(layer.moe.down, Slots(hidden, shard_.moe_ffn_size));
    return layer;
  }

  const ModelConfig& config_;
  const ModelShard& shard_;
  CountingOps& ops_;
};

// Views of a step's inputs; nobody looks at what they hold.
class StepInputViews {
 public:
  explicit StepInputViews(Device& device) : buffers_(device) {}

  absl::StatusOr<TensorView> Ints(int64_t rows, int64_t cols = 1) {
    ASSIGN_OR_RETURN(const TensorView view,
                     buffers_.New(DType::kI32, std::max<int64_t>(rows, 1), cols, "a step"));
    if (cols > 1) return view;
    return TensorView(view.data(), DType::kI32, {rows});
  }
  absl::StatusOr<TensorView> New(DType dtype, int64_t rows, int64_t cols) {
    return buffers_.New(dtype, rows, cols, "a step");
  }

 private:
  BufferSet buffers_;
};

constexpr int64_t kBlockSize = 16;

absl::StatusOr<ForwardBatch> Batch(const CountedShape& step, int32_t groups,
                                   StepInputViews& views) {
  const int64_t tokens = step.sequences * step.query;
  const int64_t blocks = (step.context + kBlockSize - 1) / kBlockSize;
  ForwardBatch batch{.num_tokens = static_cast<int32_t>(tokens)};
  ASSIGN_OR_RETURN(batch.token_count, views.Ints(1));
  ASSIGN_OR_RETURN(batch.token_ids, views.Ints(tokens));
  ASSIGN_OR_RETURN(batch.positions, views.Ints(tokens));
  ASSIGN_OR_RETURN(batch.slot_mapping, views.Ints(tokens));
  ASSIGN_OR_RETURN(batch.cu_seqlens, views.Ints(step.sequences + 1));
  ASSIGN_OR_RETURN(batch.context_lens, views.Ints(step.sequences));
  ASSIGN_OR_RETURN(batch.block_tables, views.Ints(step.sequences, std::max<int64_t>(blocks, 2)));
  batch.group_tokens.assign(groups, batch.num_tokens);
  return batch;
}

}  // namespace

absl::StatusOr<std::vector<CountedOperation>> CountStep(const ModelConfig& config,
                                                        const LayoutRequest& layout,
                                                        const CountedShape& step) {
  RETURN_IF_ERROR(ValidateLayout(layout, LayoutShape(config)));
  ASSIGN_OR_RETURN(const Topology topology, Topology::Create(layout, 0));
  const ModelShard shard = MakeShard(config, topology);
  CountingOps ops(step.dtype);
  const RankLinks links = Links(ops, shard);
  ASSIGN_OR_RETURN(ModelWeights weights, WeightShapes(config, shard, ops).All());
  const int64_t tokens = step.sequences * step.query;
  ASSIGN_OR_RETURN(const std::unique_ptr<Qwen3Model> model,
                   Qwen3Model::Create(config, shard, std::move(weights),
                                      {.dtype = step.dtype,
                                       .max_tokens = static_cast<int32_t>(tokens),
                                       .max_logits_rows = static_cast<int32_t>(step.sequences),
                                       .max_positions = static_cast<int32_t>(step.context)},
                                      links, ops));
  StepInputViews views(ops.device());
  ASSIGN_OR_RETURN(const ForwardBatch batch, Batch(step, shard.dp_size, views));
  ASSIGN_OR_RETURN(const TensorView rows, views.Ints(step.sequences));
  ASSIGN_OR_RETURN(const TensorView sums, views.New(DType::kI64, 1, 1));
  ASSIGN_OR_RETURN(const TensorView drawn, views.Ints(step.sequences));
  ASSIGN_OR_RETURN(const TensorView logits,
                   views.New(DType::kF32, step.sequences, config.vocab_size));
  ops.Begin({.query = step.query,
             .context = step.context,
             .num_experts = config.num_experts,
             .top_k = config.num_experts_per_tok});
  model->Forward(batch, std::vector<KvLayer>(config.num_hidden_layers));
  model->Logits(rows, logits);
  if (model->balance() != nullptr) {
    model->balance()->EndStep(TensorView(sums.data(), DType::kI64, {1}));
  }
  ops.Sample({.logits = logits, .token = drawn});
  return ops.operations();
}

StepTotals Total(const std::vector<CountedOperation>& operations) {
  StepTotals totals;
  for (const CountedOperation& operation : operations) {
    ++(operation.ranks > 1 ? totals.collectives : totals.launches);
    totals.bytes += operation.bytes;
    totals.flops += operation.flops;
    totals.sent += operation.sent;
  }
  return totals;
}

double PredictedSeconds(const std::vector<CountedOperation>& operations, const GpuSpec& gpu,
                        double launch_seconds) {
  double seconds = 0;
  for (const CountedOperation& operation : operations) {
    if (operation.ranks > 1) {
      seconds += operation.sent / (gpu.link_bandwidth * kLinkShare) +
                 (gpu.nvlink ? kNvlinkLatency : kPcieLatency);
    } else {
      seconds += launch_seconds + std::max(operation.bytes / (gpu.memory_bandwidth * kMemoryShare),
                                           operation.flops / (gpu.bf16_flops * kComputeShare));
    }
  }
  return seconds;
}

}  // namespace tessera
