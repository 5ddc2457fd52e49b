#include "engine/quantization/stored_module.h"

#include <algorithm>
#include <array>
#include <initializer_list>
#include <utility>

#include "engine/checkpoint/safetensors_header.h"
#include "engine/files/message.h"

namespace tessera {
namespace {

using Shape = std::vector<int64_t>;

bool IsFloat(const SafetensorsEntry& entry) {
  return entry.dtype == DType::kBF16 || entry.dtype == DType::kF16 || entry.dtype == DType::kF32;
}

int64_t CeilDiv(int64_t value, int64_t divisor) { return (value + divisor - 1) / divisor; }

// What a tensor of a module must be.
struct Wanted {
  std::string suffix;
  std::optional<DType> dtype;  // nullopt: BF16, F16 or F32
  std::vector<Shape> shapes;   // any of them
  bool optional = false;
};

class Search {
 public:
  Search(const Checkpoint& checkpoint, const ModuleRules& rules, const WantedModule& wanted)
      : checkpoint_(checkpoint), rules_(rules), wanted_(wanted) {
    result_.module.name = wanted.name;
    result_.module.rows = wanted.rows;
    result_.module.cols = wanted.cols;
  }

  ModuleSearch Run() && {
    const absl::StatusOr<ModuleRules::Verdict> verdict = rules_.Of(wanted_.name);
    if (!verdict.ok()) {
      Fail("weight", std::string(verdict.status().message()));
      return std::move(result_);
    }
    FindCodes(*verdict);
    // A module that contradicts the configuration is one fault, not one per tensor.
    if (result_.fault) KnowAll();
    if (!result_.fault && result_.module.scheme) FindTheRest();
    return std::move(result_);
  }

 private:
  std::string Name(std::string_view suffix) const { return Message(wanted_.name, ".", suffix); }
  StoredTensor Stored(std::string_view suffix) const { return checkpoint_.Find(Name(suffix)); }

  // The first fault is the one that counts.
  void Fail(std::string_view suffix, std::string what) {
    if (result_.fault) return;
    const StoredTensor tensor = Stored(suffix);
    const std::string& path =
        tensor.file == nullptr ? checkpoint_.index_path() : tensor.file->path();
    result_.fault = ModuleFault{.path = path, .tensor = Name(suffix), .what = std::move(what)};
  }

  void KnowAll() {
    for (const std::string_view suffix :
         {"weight_scale", "weight_scale_inv", "weight_zero_point", "weight_shape", "weight_g_idx",
          "qzeros", "scales", "g_idx"}) {
      result_.tensors.push_back(Name(suffix));
    }
  }

  std::string Method() const { return Message("quant_method \"", rules_.config()->method, "\""); }

  StoredTensor Take(const Wanted& wanted) {
    const StoredTensor tensor = Stored(wanted.suffix);
    if (tensor.file == nullptr && wanted.optional) return tensor;
    result_.tensors.push_back(Name(wanted.suffix));
    if (tensor.file == nullptr) {
      Fail(wanted.suffix, "missing");
      return tensor;
    }
    const SafetensorsEntry& entry = *tensor.entry;
    if (std::find(wanted.shapes.begin(), wanted.shapes.end(), entry.shape) == wanted.shapes.end()) {
      Fail(wanted.suffix, Message("has shape ", ShapeText(entry.shape), ", config.json asks for ",
                                  ShapeText(wanted.shapes.front())));
    } else if (wanted.dtype ? entry.dtype != wanted.dtype : !IsFloat(entry)) {
      Fail(wanted.suffix,
           wanted.dtype
               ? Message("has dtype ", entry.dtype_name, ", must be ", DTypeName(*wanted.dtype))
               : Message("has dtype ", entry.dtype_name,
                         ", which is not supported here; BF16, F16 and F32 are"));
    }
    return tensor;
  }

  // The suffix of the tensor with the codes, and whether they are quantised.
  struct Found {
    std::string_view suffix;
    bool quantized = false;
  };
  Found LookForCodes() const {
    for (const std::string_view suffix : {"qweight", "weight_packed"}) {
      if (Stored(suffix).file != nullptr) return {suffix, true};
    }
    const StoredTensor weight = Stored("weight");
    const bool plain = weight.file == nullptr ||
                       (weight.entry->dtype != DType::kF8E4M3 && weight.entry->dtype != DType::kI8);
    return {"weight", !plain};
  }

  // What to name as missing.
  std::string_view ExpectedCodes(const ModuleRules::Verdict& verdict) const {
    if (verdict.scheme == nullptr || verdict.skipped_by != nullptr || wanted_.usually_plain) {
      return "weight";
    }
    switch (verdict.scheme->layout) {
      case QuantizedLayout::kGptq:
      case QuantizedLayout::kAwq:
        return "qweight";
      case QuantizedLayout::kPacked:
        return "weight_packed";
      case QuantizedLayout::kFp8:
      case QuantizedLayout::kInt8:
        break;
    }
    return "weight";
  }

  static bool Fits(const QuantizationScheme& scheme, const Found& found,
                   const SafetensorsEntry& entry) {
    switch (scheme.layout) {
      case QuantizedLayout::kGptq:
      case QuantizedLayout::kAwq:
        return found.suffix == "qweight";
      case QuantizedLayout::kPacked:
        return found.suffix == "weight_packed";
      case QuantizedLayout::kFp8:
        return found.suffix == "weight" && entry.dtype == DType::kF8E4M3;
      case QuantizedLayout::kInt8:
        return found.suffix == "weight" && entry.dtype == DType::kI8;
    }
    return false;
  }

  void FindCodes(const ModuleRules::Verdict& verdict) {
    const Found found = LookForCodes();
    if (!found.quantized && Stored("weight").file == nullptr) {
      Fail(ExpectedCodes(verdict), "missing");
      return;
    }
    if (!found.quantized) {
      result_.module.codes = Take({.suffix = "weight", .shapes = {{wanted_.rows, wanted_.cols}}});
      CheckPlain(verdict);
      return;
    }
    result_.tensors.push_back(Name(found.suffix));
    const bool forbidden_head = wanted_.name == "lm_head" && rules_.config() != nullptr &&
                                rules_.config()->quantizes_head == false;
    if (rules_.config() == nullptr) {
      Fail(found.suffix, "is quantised, but config.json has no quantization_config");
    } else if (verdict.skipped_by != nullptr) {
      Fail(found.suffix, Message("is quantised, but ", rules_.config()->skip_list,
                                 " of config.json excludes it with \"",
                                 verdict.skipped_by->written.substr(0, 100), "\""));
    } else if (forbidden_head) {
      Fail(found.suffix, "is quantised, but lm_head of config.json is false");
    } else if (verdict.scheme == nullptr) {
      Fail(found.suffix, "is quantised, but no group of config.json has it as a target");
    } else if (!Fits(*verdict.scheme, found, *Stored(found.suffix).entry)) {
      Fail(found.suffix, Message("is not what ", Method(), " of config.json stores for ",
                                 SchemeText(*verdict.scheme)));
    } else {
      result_.module.scheme = *verdict.scheme;
    }
  }

  void CheckPlain(const ModuleRules::Verdict& verdict) {
    if (verdict.scheme == nullptr || verdict.skipped_by != nullptr || result_.fault) return;
    const QuantizationConfig& config = *rules_.config();
    const bool head = wanted_.name == "lm_head" && config.quantizes_head.has_value();
    if (head ? !*config.quantizes_head : wanted_.usually_plain || !config.lists_all_skipped) return;
    Fail("weight",
         Message("has dtype ", result_.module.codes.entry->dtype_name, ", but by ", Method(),
                 " of config.json it is quantised: ", config.skip_list, " does not exclude it"));
  }

  void FindTheRest() {
    switch (result_.module.scheme->layout) {
      case QuantizedLayout::kFp8:
        return FindFp8();
      case QuantizedLayout::kInt8:
        return FindInt8();
      case QuantizedLayout::kPacked:
        return FindPacked();
      case QuantizedLayout::kGptq:
        return FindGptq();
      case QuantizedLayout::kAwq:
        return FindAwq();
    }
  }

  // Codes of one byte.
  void TakeBytes(DType dtype) {
    result_.tensors.pop_back();
    result_.module.codes =
        Take({.suffix = "weight", .dtype = dtype, .shapes = {{wanted_.rows, wanted_.cols}}});
  }

  std::vector<Shape> ScaleShapes() const {
    const QuantizationScheme& scheme = *result_.module.scheme;
    switch (scheme.scales) {
      case ScaleUnit::kTensor:
        return {{1}, {}, {1, 1}};
      case ScaleUnit::kRow:
        return {{wanted_.rows, 1}, {wanted_.rows}};
      case ScaleUnit::kBlock:
        return {
            {CeilDiv(wanted_.rows, scheme.block_rows), CeilDiv(wanted_.cols, scheme.block_cols)}};
      case ScaleUnit::kGroup:
        break;
    }
    return {{wanted_.rows, result_.module.num_groups()}};
  }

  void FindFp8() {
    TakeBytes(DType::kF8E4M3);
    const QuantizationScheme& scheme = *result_.module.scheme;
    const bool by_block = scheme.scales == ScaleUnit::kBlock && rules_.config()->method == "fp8";
    const bool inverse = Stored("weight_scale_inv").file != nullptr ||
                         (by_block && Stored("weight_scale").file == nullptr);
    result_.module.scales = Take({.suffix = inverse ? "weight_scale_inv" : "weight_scale",
                                  .shapes = ScaleShapes(),
                                  .optional = scheme.scale_may_miss});
  }

  void FindInt8() {
    TakeBytes(DType::kI8);
    result_.module.scales = Take({.suffix = "weight_scale", .shapes = ScaleShapes()});
    result_.module.zeros = Take({.suffix = "weight_zero_point",
                                 .dtype = DType::kI8,
                                 .shapes = ScaleShapes(),
                                 .optional = true});
  }

  bool GroupsDivide(std::string_view suffix) {
    const int64_t size = result_.module.group_size();
    if (wanted_.cols % size == 0) return true;
    Fail(suffix, Message("groups of ", size, " do not divide its ", wanted_.cols, " inputs"));
    return false;
  }

  bool WordsDivide(std::string_view suffix, int64_t size, std::string_view what) {
    const int64_t per_word = result_.module.codes_per_word();
    if (size % per_word == 0) return true;
    Fail(suffix, Message("words of ", per_word, " codes do not divide its ", size, " ", what));
    return false;
  }

  void FindPacked() {
    result_.tensors.pop_back();
    StoredModule& module = result_.module;
    const int64_t per_word = module.codes_per_word();
    if (!GroupsDivide("weight_packed")) return;
    module.codes = Take({.suffix = "weight_packed",
                         .dtype = DType::kI32,
                         .shapes = {{wanted_.rows, CeilDiv(wanted_.cols, per_word)}}});
    module.scales = Take({.suffix = "weight_scale", .shapes = ScaleShapes()});
    module.shape = Take({.suffix = "weight_shape", .dtype = DType::kI64, .shapes = {{2}}});
    const StoredTensor zeros = Stored("weight_zero_point");
    const bool bytes =
        module.scheme->symmetric && zeros.file != nullptr && zeros.entry->dtype == DType::kI8;
    const int64_t zero_rows = bytes ? wanted_.rows : CeilDiv(wanted_.rows, per_word);
    module.zeros = Take({.suffix = "weight_zero_point",
                         .dtype = bytes ? DType::kI8 : DType::kI32,
                         .shapes = {{zero_rows, module.num_groups()}},
                         .optional = module.scheme->symmetric});
    if (!module.scheme->stores_groups) return;
    module.groups =
        Take({.suffix = "weight_g_idx", .dtype = DType::kI32, .shapes = {{wanted_.cols}}});
  }

  // What GPTQ and AWQ have in common.
  void FindZerosAndScales() {
    StoredModule& module = result_.module;
    const int64_t groups = module.num_groups();
    module.zeros = Take({.suffix = "qzeros",
                         .dtype = DType::kI32,
                         .shapes = {{groups, wanted_.rows / module.codes_per_word()}}});
    module.scales = Take({.suffix = "scales", .shapes = {{groups, wanted_.rows}}});
    if (wanted_.has_bias) return;
    module.bias = Take({.suffix = "bias", .shapes = {{wanted_.rows}}, .optional = true});
  }

  void FindGptq() {
    result_.tensors.pop_back();
    if (!WordsDivide("qweight", wanted_.cols, "inputs")) return;
    if (!WordsDivide("qweight", wanted_.rows, "outputs")) return;
    StoredModule& module = result_.module;
    module.codes = Take({.suffix = "qweight",
                         .dtype = DType::kI32,
                         .shapes = {{wanted_.cols / module.codes_per_word(), wanted_.rows}}});
    FindZerosAndScales();
    module.groups = Take(
        {.suffix = "g_idx", .dtype = DType::kI32, .shapes = {{wanted_.cols}}, .optional = true});
  }

  void FindAwq() {
    result_.tensors.pop_back();
    if (!WordsDivide("qweight", wanted_.rows, "outputs") || !GroupsDivide("qweight")) return;
    StoredModule& module = result_.module;
    module.codes = Take({.suffix = "qweight",
                         .dtype = DType::kI32,
                         .shapes = {{wanted_.cols, wanted_.rows / module.codes_per_word()}}});
    FindZerosAndScales();
  }

  const Checkpoint& checkpoint_;
  const ModuleRules& rules_;
  const WantedModule& wanted_;
  ModuleSearch result_;
};

}  // namespace

void StoredModule::Release() const {
  for (const StoredTensor* tensor : {&codes, &scales, &zeros, &groups, &shape, &bias}) {
    if (tensor->file != nullptr) tensor->Release();
  }
}

ModuleSearch FindModule(const Checkpoint& checkpoint, const ModuleRules& rules,
                        const WantedModule& wanted) {
  return Search(checkpoint, rules, wanted).Run();
}

}  // namespace tessera
