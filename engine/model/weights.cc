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
#include "engine/quantization/dequantize.h"

namespace tessera {
namespace {

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

// Finds this rank's slices in the checkpoint. Touches no page.
class SliceReader {
 public:
  // `rules`: of config.quantization; must outlive the reader.
  SliceReader(const ModelConfig& config, const ModelShard& shard, const ModuleRules& rules,
              Checkpoint& checkpoint)
      : config_(config), shard_(shard), rules_(rules), checkpoint_(checkpoint) {}

  struct ExpertMatrices {
    StoredPart gate;
    StoredPart up;
    StoredPart down;
  };

  absl::StatusOr<ExpertMatrices> Expert(const std::string& prefix, int64_t index) {
    const int64_t begin = shard_.moe_ffn_begin;
    const int64_t count = shard_.moe_ffn_size;
    const int64_t hidden = config_.hidden_size;
    const int64_t width = config_.moe_intermediate_size;
    ExpertMatrices expert;
    if (checkpoint_.Contains(prefix + "experts.gate_up_proj")) {
      // [experts, 2 * width, hidden], gate rows before up rows, and [experts, hidden, width].
      const int64_t gate = index * 2 * width + begin;
      const std::string gate_up = prefix + "experts.gate_up_proj";
      ASSIGN_OR_RETURN(expert.gate, Plain(gate_up, {gate, count, 0, hidden}));
      ASSIGN_OR_RETURN(expert.up, Plain(gate_up, {gate + width, count, 0, hidden}));
      ASSIGN_OR_RETURN(expert.down,
                       Plain(prefix + "experts.down_proj", {index * hidden, hidden, begin, count}));
      return expert;
    }
    const std::string name = absl::StrCat(prefix, "experts.", index, ".");
    ASSIGN_OR_RETURN(expert.gate,
                     RowsOf({name + "gate_proj.weight", {width, hidden}}, begin, count));
    ASSIGN_OR_RETURN(expert.up, RowsOf({name + "up_proj.weight", {width, hidden}}, begin, count));
    ASSIGN_OR_RETURN(expert.down,
                     ColumnsOf({name + "down_proj.weight", {hidden, width}}, begin, count));
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
  absl::StatusOr<StoredPart> Plain(const std::string& name, const MatrixSlice& part) {
    ASSIGN_OR_RETURN(const StoredTensor tensor, Find(name));
    ASSIGN_OR_RETURN(const MappedRows mapped, tensor.MapSlice(part));
    const DType dtype = *tensor.entry->dtype;
    StoredPart plain;
    plain.tensor = tensor;
    plain.matrix = {.data = mapped.data,
                    .dtype = dtype,
                    .rows = part.num_rows,
                    .cols = part.num_columns,
                    .row_stride = mapped.row_stride / static_cast<int64_t>(SizeOf(dtype))};
    return plain;
  }

  // A linear weight, which may be quantised.
  absl::StatusOr<StoredPart> Matrix(const ExpectedTensor& weight, const MatrixSlice& part) {
    if (!config_.quantization) return Plain(weight.name, part);
    ASSIGN_OR_RETURN(StoredModule module, FindMatrix(config_, checkpoint_, rules_, weight));
    if (!module.scheme) return Plain(weight.name, part);
    return StoredPart{.matrix = {}, .tensor = {}, .module = std::move(module), .slice = part};
  }
  absl::StatusOr<StoredPart> RowsOf(const ExpectedTensor& weight, int64_t begin, int64_t count) {
    return Matrix(weight, {begin, count, 0, weight.shape[1]});
  }
  absl::StatusOr<StoredPart> ColumnsOf(const ExpectedTensor& weight, int64_t begin, int64_t count) {
    return Matrix(weight, {0, weight.shape[0], begin, count});
  }

  const ModelConfig& config_;
  const ModelShard& shard_;
  const ModuleRules& rules_;
  Checkpoint& checkpoint_;
};

// The values of a quantised part, in memory that `values` gets. Where equal ones are shared, they
// are told by where their codes lie.
absl::StatusOr<HostMatrix> WriteOut(const StoredPart& part, DType dtype,
                                    std::vector<std::byte>* values) {
  const MatrixSlice& slice = part.slice;
  values->resize(static_cast<size_t>(slice.num_rows * slice.num_columns) * SizeOf(dtype));
  RETURN_IF_ERROR(Dequantize(part.module, slice, {.dtype = dtype, .data = values->data()}));
  const StoredTensor& codes = part.module.codes;
  return HostMatrix{.data = values->data(),
                    .dtype = dtype,
                    .rows = slice.num_rows,
                    .cols = slice.num_columns,
                    .row_stride = slice.num_columns,
                    .origin = absl::StrCat(codes.file->path(), " ", codes.entry->data_begin, " ",
                                           slice.row_begin, " ", slice.column_begin)};
}

std::string MlpPrefix(int32_t layer) { return absl::StrCat("model.layers.", layer, ".mlp."); }

class Loader : private SliceReader {
 public:
  Loader(const SliceReader& slices, DType dtype, Ops& ops, const LoadProgress& progress)
      : SliceReader(slices),
        dtype_(dtype),
        ops_(ops),
        progress_(progress),
        preparation_(ops.max_preparing_threads()) {}

  absl::StatusOr<ModelWeights> Load() {
    ModelWeights weights;
    // The largest matrices first: while their file pages are in memory, the layers are not yet.
    ASSIGN_OR_RETURN(StoredPart embedding, Plain(EmbeddingName(config_, checkpoint_), VocabRows()));
    RETURN_IF_ERROR(PrepareVocab(std::move(embedding), &weights.embedding));
    if (!config_.tie_word_embeddings) {
      ASSIGN_OR_RETURN(
          StoredPart head,
          Matrix({"lm_head.weight", {config_.vocab_size, config_.hidden_size}}, VocabRows()));
      RETURN_IF_ERROR(PrepareVocab(std::move(head), &weights.lm_head));
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
  absl::Status Prepare(std::vector<StoredPart> parts, std::unique_ptr<Weight>* weight,
                       int64_t pad_rows = 0) {
    return preparation_.Add([this, parts = std::move(parts), weight, pad_rows]() -> absl::Status {
      ASSIGN_OR_RETURN(*weight, PrepareParts(parts,
                                             {.dtype = dtype_,
                                              .pad_rows = pad_rows,
                                              .background = ops_.max_preparing_threads() > 1},
                                             ops_));
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

  // Rows of the vocabulary that this rank holds.
  MatrixSlice VocabRows() const {
    const int64_t begin = shard_.vocab_begin;
    const int64_t end =
        std::max(begin, std::min<int64_t>(config_.vocab_size, begin + shard_.vocab_rows));
    return {begin, end - begin, 0, config_.hidden_size};
  }

  // Padded with zeros at the end.
  absl::Status PrepareVocab(StoredPart rows, std::unique_ptr<Weight>* weight) {
    return Prepare({std::move(rows)}, weight, shard_.vocab_rows - VocabRows().num_rows);
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
    const int64_t q_size = int64_t{config_.num_attention_heads} * head_dim;
    const int64_t kv_size = int64_t{config_.num_key_value_heads} * head_dim;
    ASSIGN_OR_RETURN(const StoredPart q,
                     RowsOf({prefix + "q_proj.weight", {q_size, hidden}}, q_begin, q_count));
    ASSIGN_OR_RETURN(const StoredPart k,
                     RowsOf({prefix + "k_proj.weight", {kv_size, hidden}}, kv_begin, kv_count));
    ASSIGN_OR_RETURN(const StoredPart v,
                     RowsOf({prefix + "v_proj.weight", {kv_size, hidden}}, kv_begin, kv_count));
    ASSIGN_OR_RETURN(const StoredPart o,
                     ColumnsOf({prefix + "o_proj.weight", {hidden, q_size}}, q_begin, q_count));
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
    const int64_t width = config_.intermediate_size;
    const int64_t begin = shard_.ffn_begin;
    const int64_t count = shard_.ffn_size;
    ASSIGN_OR_RETURN(const StoredPart gate,
                     RowsOf({prefix + "gate_proj.weight", {width, hidden}}, begin, count));
    ASSIGN_OR_RETURN(const StoredPart up,
                     RowsOf({prefix + "up_proj.weight", {width, hidden}}, begin, count));
    ASSIGN_OR_RETURN(const StoredPart down,
                     ColumnsOf({prefix + "down_proj.weight", {hidden, width}}, begin, count));
    RETURN_IF_ERROR(Prepare({gate, up}, &mlp.gate_up));
    return Prepare({down}, &mlp.down);
  }

  absl::Status LoadMoe(const std::string& prefix, MoeWeights& moe) {
    const int64_t experts = config_.num_experts;
    ASSIGN_OR_RETURN(const StoredPart router,
                     RowsOf({prefix + "gate.weight", {experts, config_.hidden_size}}, 0, experts));
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

  absl::Status PrepareExpert(std::vector<StoredPart> parts, ExpertSlots* slots, int32_t slot) {
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
  ASSIGN_OR_RETURN(const ModuleRules rules, ModuleRules::Create(config.quantization));
  return Loader(SliceReader(config, shard, rules, checkpoint), dtype, ops, progress).Load();
}

absl::StatusOr<std::unique_ptr<Weight>> PrepareParts(const std::vector<StoredPart>& parts,
                                                     const PartsOptions& options, Ops& ops) {
  WeightSource source{.parts = {},
                      .pad_rows = options.pad_rows,
                      .dtype = options.dtype,
                      .background = options.background};
  std::vector<std::vector<std::byte>> values;  // of quantised parts
  for (const StoredPart& part : parts) {
    if (part.quantized()) {
      ASSIGN_OR_RETURN(const HostMatrix matrix,
                       WriteOut(part, options.dtype, &values.emplace_back()));
      source.parts.push_back(matrix);
    } else {
      source.parts.push_back(part.matrix);
    }
  }
  ASSIGN_OR_RETURN(std::unique_ptr<Weight> weight, ops.PrepareWeight(source));
  for (const StoredPart& part : parts) {
    if (part.quantized()) {
      part.module.Release();
    } else {
      part.tensor.Release();
    }
  }
  return weight;
}

void ExpertSlots::Set(int32_t slot, std::unique_ptr<Weight> weight) {
  table->Set(slot, *weight);
  weights[slot] = std::move(weight);  // the old one is freed behind the work that uses it
}

absl::StatusOr<std::vector<StoredPart>> FindExpertPart(const ModelConfig& config,
                                                       const ModelShard& shard,
                                                       Checkpoint& checkpoint,
                                                       const ExpertPartName& name) {
  ASSIGN_OR_RETURN(const ModuleRules rules, ModuleRules::Create(config.quantization));
  SliceReader reader(config, shard, rules, checkpoint);
  ASSIGN_OR_RETURN(const auto expert, reader.Expert(MlpPrefix(name.layer), name.expert));
  if (name.part == ExpertPart::kDown) return std::vector<StoredPart>{expert.down};
  return std::vector<StoredPart>{expert.gate, expert.up};
}

}  // namespace tessera
