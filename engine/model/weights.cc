#include "engine/model/weights.h"

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstring>
#include <deque>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/model/checkpoint_check.h"
#include "engine/model/preparation.h"

namespace tessera {
namespace {

// A rectangle of a stored matrix: [row_begin, + rows) x [column_begin, + columns).
struct Rectangle {
  int64_t row_begin = 0;
  int64_t rows = 0;
  int64_t column_begin = 0;
  int64_t columns = 0;
};

float ToFloat(const std::byte* data, DType dtype, int64_t index) {
  const std::byte* at = data + index * static_cast<int64_t>(SizeOf(dtype));
  if (dtype == DType::kF32) {
    float value;
    std::memcpy(&value, at, sizeof(value));
    return value;
  }
  uint16_t bits;
  std::memcpy(&bits, at, sizeof(bits));
  return dtype == DType::kBF16 ? BF16ToFloat(bits) : F16ToFloat(bits);
}

// A mapped part of a stored matrix.
struct Part {
  HostMatrix matrix;
  StoredTensor tensor;
};

// Finds this rank's slices in the checkpoint. Touches no page.
class SliceReader {
 public:
  SliceReader(const ModelConfig& config, const ModelShard& shard, Checkpoint& checkpoint)
      : config_(config), shard_(shard), checkpoint_(checkpoint) {}

  struct ExpertMatrices {
    Part gate;
    Part up;
    Part down;
  };

  absl::StatusOr<ExpertMatrices> Expert(const std::string& prefix, int64_t index) {
    const int64_t begin = shard_.moe_ffn_begin;
    const int64_t count = shard_.moe_ffn_size;
    const int64_t hidden = config_.hidden_size;
    const Rectangle rows{begin, count, 0, hidden};
    const Rectangle columns{0, hidden, begin, count};
    ExpertMatrices expert;
    if (checkpoint_.Contains(prefix + "experts.gate_up_proj")) {
      // [experts, 2 * width, hidden], gate rows before up rows, and [experts, hidden, width].
      const int64_t width = config_.moe_intermediate_size;
      const int64_t gate = index * 2 * width + begin;
      const std::string gate_up = prefix + "experts.gate_up_proj";
      ASSIGN_OR_RETURN(expert.gate, Matrix(gate_up, {gate, count, 0, hidden}));
      ASSIGN_OR_RETURN(expert.up, Matrix(gate_up, {gate + width, count, 0, hidden}));
      ASSIGN_OR_RETURN(expert.down, Matrix(prefix + "experts.down_proj",
                                           {index * hidden, hidden, begin, count}));
      return expert;
    }
    const std::string name = absl::StrCat(prefix, "experts.", index, ".");
    ASSIGN_OR_RETURN(expert.gate, Matrix(name + "gate_proj.weight", rows));
    ASSIGN_OR_RETURN(expert.up, Matrix(name + "up_proj.weight", rows));
    ASSIGN_OR_RETURN(expert.down, Matrix(name + "down_proj.weight", columns));
    return expert;
  }

 protected:
  absl::StatusOr<StoredTensor> Find(const std::string& name) {
    const StoredTensor tensor = checkpoint_.Find(name);
    if (tensor.file == nullptr) {
      return absl::NotFoundError(absl::StrCat(checkpoint_.index_path(), ": no tensor ", name));
    }
    return tensor;
  }

  // Only the pages of the rectangle are touched.
  absl::StatusOr<Part> Matrix(const std::string& name, const Rectangle& part) {
    ASSIGN_OR_RETURN(const StoredTensor tensor, Find(name));
    ASSIGN_OR_RETURN(const MappedRows mapped,
                     tensor.MapSlice({part.row_begin, part.rows, part.column_begin, part.columns}));
    const DType dtype = *tensor.entry->dtype;
    const HostMatrix matrix{.data = mapped.data,
                            .dtype = dtype,
                            .rows = part.rows,
                            .cols = part.columns,
                            .row_stride = mapped.row_stride / static_cast<int64_t>(SizeOf(dtype))};
    return Part{matrix, tensor};
  }

  const ModelConfig& config_;
  const ModelShard& shard_;
  Checkpoint& checkpoint_;
};

std::string MlpPrefix(int32_t layer) { return absl::StrCat("model.layers.", layer, ".mlp."); }

class Loader : private SliceReader {
 public:
  Loader(const ModelConfig& config, const ModelShard& shard, DType dtype, Checkpoint& checkpoint,
         Ops& ops, const LoadProgress& progress)
      : SliceReader(config, shard, checkpoint),
        dtype_(dtype),
        ops_(ops),
        progress_(progress),
        preparation_(ops.max_preparing_threads()) {}

  absl::StatusOr<ModelWeights> Load() {
    ModelWeights weights;
    // The largest matrices first: while their file pages are in memory, the layers are not yet.
    RETURN_IF_ERROR(VocabMatrix(EmbeddingName(config_, checkpoint_), &weights.embedding));
    if (!config_.tie_word_embeddings) {
      RETURN_IF_ERROR(VocabMatrix("lm_head.weight", &weights.lm_head));
    }
    weights.layers.resize(config_.num_hidden_layers);
    for (int32_t i = 0; i < config_.num_hidden_layers; ++i) {
      RETURN_IF_ERROR(LoadLayer(i, weights.layers[i]));
      if (progress_) progress_(static_cast<double>(i + 1) / (config_.num_hidden_layers + 1));
    }
    ASSIGN_OR_RETURN(weights.final_norm, WholeVector("model.norm.weight"));
    RETURN_IF_ERROR(preparation_.Finish());
    for (LoadedExpert& expert : experts_) expert.slots->Set(expert.slot, std::move(expert.weight));
    weights.bytes = bytes_;
    if (progress_) progress_(1.0);
    return weights;
  }

 private:
  // A range of a stored vector.
  struct VectorRange {
    std::string name;
    int64_t begin = 0;
    int64_t count = -1;  // -1: to the end
  };

  // An expert's matrix on its way to its slot.
  struct LoadedExpert {
    ExpertSlots* slots = nullptr;
    int32_t slot = 0;
    std::unique_ptr<Weight> weight;
  };

  // Packs the parts one below the other into *weight, which stays where it is until all is loaded,
  // and drops their file pages: now, or beside what is read next.
  absl::Status Prepare(std::vector<Part> parts, std::unique_ptr<Weight>* weight,
                       int64_t pad_rows = 0) {
    return preparation_.Add([this, parts = std::move(parts), weight, pad_rows]() -> absl::Status {
      WeightSource source{.parts = {},
                          .pad_rows = pad_rows,
                          .dtype = dtype_,
                          .background = ops_.max_preparing_threads() > 1};
      for (const Part& part : parts) source.parts.push_back(part.matrix);
      ASSIGN_OR_RETURN(*weight, ops_.PrepareWeight(source));
      for (const Part& part : parts) part.tensor.Release();
      bytes_ += static_cast<int64_t>((*weight)->bytes());
      return absl::OkStatus();
    });
  }

  // Several named vectors one behind the other, as fp32 on the device.
  absl::StatusOr<DeviceVector> Vector(const std::vector<VectorRange>& ranges) {
    std::vector<float> values;
    for (const VectorRange& range : ranges) {
      ASSIGN_OR_RETURN(const StoredTensor tensor, Find(range.name));
      ASSIGN_OR_RETURN(const std::byte* const data, tensor.Map());
      const int64_t count = range.count < 0 ? tensor.entry->shape[0] - range.begin : range.count;
      for (int64_t i = 0; i < count; ++i) {
        values.push_back(ToFloat(data, *tensor.entry->dtype, range.begin + i));
      }
      tensor.Release();
    }
    DeviceVector vector;
    const size_t bytes = values.size() * sizeof(float);
    ASSIGN_OR_RETURN(vector.buffer, ops_.device().Allocate(bytes, ranges[0].name));
    ops_.device().Upload(vector.buffer.data(), values.data(), bytes);
    vector.view = vector.buffer.View(DType::kF32, {static_cast<int64_t>(values.size())});
    bytes_ += static_cast<int64_t>(bytes);
    return vector;
  }

  absl::StatusOr<DeviceVector> WholeVector(const std::string& name) {
    return Vector({VectorRange{.name = name}});
  }

  // Rows of the vocabulary that this rank holds, padded with zeros at the end.
  absl::Status VocabMatrix(const std::string& name, std::unique_ptr<Weight>* weight) {
    const int64_t begin = shard_.vocab_begin;
    const int64_t end =
        std::max(begin, std::min<int64_t>(config_.vocab_size, begin + shard_.vocab_rows));
    ASSIGN_OR_RETURN(const Part rows, Matrix(name, {begin, end - begin, 0, config_.hidden_size}));
    return Prepare({rows}, weight, shard_.vocab_rows - (end - begin));
  }

  absl::Status LoadLayer(int32_t index, LayerWeights& layer) {
    const std::string prefix = absl::StrCat("model.layers.", index, ".");
    ASSIGN_OR_RETURN(layer.input_norm, WholeVector(prefix + "input_layernorm.weight"));
    ASSIGN_OR_RETURN(layer.post_attention_norm,
                     WholeVector(prefix + "post_attention_layernorm.weight"));
    RETURN_IF_ERROR(LoadAttention(prefix + "self_attn.", layer));
    return config_.layer_is_moe[index] ? LoadMoe(MlpPrefix(index), layer.moe)
                                       : LoadDenseMlp(MlpPrefix(index), layer.mlp);
  }

  absl::Status LoadAttention(const std::string& prefix, LayerWeights& layer) {
    const int64_t head_dim = config_.head_dim;
    const int64_t hidden = config_.hidden_size;
    const int64_t q_begin = shard_.q_head_begin * head_dim;
    const int64_t q_count = shard_.num_q_heads * head_dim;
    const int64_t kv_begin = shard_.kv_head_begin * head_dim;
    const int64_t kv_count = shard_.num_kv_heads * head_dim;
    ASSIGN_OR_RETURN(const Part q, Matrix(prefix + "q_proj.weight", {q_begin, q_count, 0, hidden}));
    ASSIGN_OR_RETURN(const Part k,
                     Matrix(prefix + "k_proj.weight", {kv_begin, kv_count, 0, hidden}));
    ASSIGN_OR_RETURN(const Part v,
                     Matrix(prefix + "v_proj.weight", {kv_begin, kv_count, 0, hidden}));
    ASSIGN_OR_RETURN(const Part o, Matrix(prefix + "o_proj.weight", {0, hidden, q_begin, q_count}));
    RETURN_IF_ERROR(Prepare({q, k, v}, &layer.qkv));
    RETURN_IF_ERROR(Prepare({o}, &layer.o));
    ASSIGN_OR_RETURN(layer.q_norm, WholeVector(prefix + "q_norm.weight"));
    ASSIGN_OR_RETURN(layer.k_norm, WholeVector(prefix + "k_norm.weight"));
    if (!config_.attention_bias) return absl::OkStatus();
    ASSIGN_OR_RETURN(layer.qkv_bias, Vector({{prefix + "q_proj.bias", q_begin, q_count},
                                             {prefix + "k_proj.bias", kv_begin, kv_count},
                                             {prefix + "v_proj.bias", kv_begin, kv_count}}));
    if (shard_.tp_rank == 0) {
      ASSIGN_OR_RETURN(layer.o_bias, WholeVector(prefix + "o_proj.bias"));
    }
    return absl::OkStatus();
  }

  absl::Status LoadDenseMlp(const std::string& prefix, DenseMlpWeights& mlp) {
    const int64_t hidden = config_.hidden_size;
    const Rectangle rows{shard_.ffn_begin, shard_.ffn_size, 0, hidden};
    ASSIGN_OR_RETURN(const Part gate, Matrix(prefix + "gate_proj.weight", rows));
    ASSIGN_OR_RETURN(const Part up, Matrix(prefix + "up_proj.weight", rows));
    ASSIGN_OR_RETURN(const Part down, Matrix(prefix + "down_proj.weight",
                                             {0, hidden, shard_.ffn_begin, shard_.ffn_size}));
    RETURN_IF_ERROR(Prepare({gate, up}, &mlp.gate_up));
    return Prepare({down}, &mlp.down);
  }

  absl::Status LoadMoe(const std::string& prefix, MoeWeights& moe) {
    ASSIGN_OR_RETURN(const Part router, Matrix(prefix + "gate.weight",
                                               {0, config_.num_experts, 0, config_.hidden_size}));
    RETURN_IF_ERROR(Prepare({router}, &moe.router));
    ASSIGN_OR_RETURN(moe.gate_up, Slots(2 * int64_t{shard_.moe_ffn_size}, config_.hidden_size));
    ASSIGN_OR_RETURN(moe.down, Slots(config_.hidden_size, shard_.moe_ffn_size));
    for (int32_t i = 0; i < shard_.num_experts; ++i) {
      ASSIGN_OR_RETURN(const ExpertMatrices expert, Expert(prefix, shard_.expert_begin + i));
      RETURN_IF_ERROR(PrepareExpert({expert.gate, expert.up}, &moe.gate_up, i));
      RETURN_IF_ERROR(PrepareExpert({expert.down}, &moe.down, i));
    }
    return absl::OkStatus();
  }

  absl::Status PrepareExpert(std::vector<Part> parts, ExpertSlots* slots, int32_t slot) {
    LoadedExpert& expert = experts_.emplace_back(LoadedExpert{.slots = slots, .slot = slot});
    return Prepare(std::move(parts), &expert.weight);
  }

  // Empty ones for matrices of this size.
  absl::StatusOr<ExpertSlots> Slots(int64_t rows, int64_t cols) {
    ExpertSlots slots;
    slots.weights.resize(shard_.expert_slots);
    ASSIGN_OR_RETURN(
        slots.table,
        ops_.CreateExpertTable({.num_slots = shard_.expert_slots, .rows = rows, .cols = cols}));
    return slots;
  }

  const DType dtype_;
  Ops& ops_;
  const LoadProgress& progress_;
  std::atomic<int64_t> bytes_ = 0;
  std::deque<LoadedExpert> experts_;  // which stay where they are while there come more
  Preparation preparation_;           // ends before what its pieces write to
};

}  // namespace

absl::StatusOr<ModelWeights> LoadWeights(const ModelConfig& config, const ModelShard& shard,
                                         DType dtype, Checkpoint& checkpoint, Ops& ops,
                                         const LoadProgress& progress) {
  return Loader(config, shard, dtype, checkpoint, ops, progress).Load();
}

void ExpertSlots::Set(int32_t slot, std::unique_ptr<Weight> weight) {
  table->Set(slot, *weight);
  weights[slot] = std::move(weight);  // the old one is freed behind the work that uses it
}

absl::StatusOr<StoredExpertPart> FindExpertPart(const ModelConfig& config, const ModelShard& shard,
                                                Checkpoint& checkpoint,
                                                const ExpertPartName& name) {
  SliceReader reader(config, shard, checkpoint);
  ASSIGN_OR_RETURN(const auto expert, reader.Expert(MlpPrefix(name.layer), name.expert));
  StoredExpertPart stored;
  const auto add = [&stored](const Part& part) {
    stored.matrices.push_back(part.matrix);
    stored.tensors.push_back(part.tensor);
  };
  if (name.part == ExpertPart::kDown) {
    add(expert.down);
  } else {
    add(expert.gate);
    add(expert.up);
  }
  return stored;
}

}  // namespace tessera
