#include "engine/quantization/compressed_tensors_config.h"

#include <optional>
#include <string>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"
#include "engine/files/message.h"

namespace tessera {
namespace {

constexpr size_t kMaxGroups = 256;
constexpr IntRange kSizeRange{1, 1 << 20};
constexpr IntRange kBitsRange{1, 32};
constexpr std::string_view kRegexPrefix = "re:";
// Classes of modules that are matrices.
constexpr std::string_view kLinearClass = "Linear";

std::string Shown(const std::string& text) { return Message("\"", text.substr(0, 60), "\""); }

std::vector<ModulePattern> Patterns(const JsonFields& fields, std::string_view key) {
  std::vector<ModulePattern> patterns;
  for (std::string& written : fields.Strings(key)) {
    ModulePattern pattern{.kind = ModulePattern::Kind::kName, .text = written};
    if (written.starts_with(kRegexPrefix)) {
      pattern.kind = ModulePattern::Kind::kRegex;
      pattern.text = written.substr(kRegexPrefix.size());
    } else if (written == kLinearClass) {
      pattern.kind = ModulePattern::Kind::kLinear;
    }
    pattern.written = std::move(written);
    patterns.push_back(std::move(pattern));
  }
  return patterns;
}

// [128, 128] or "128x128".
void ReadBlock(const JsonFields& weights, QuantizationScheme* scheme) {
  if (weights.IsString("block_structure")) {
    const std::string text = weights.String("block_structure", "");
    const std::vector<std::string> sides = absl::StrSplit(text, 'x');
    if (sides.size() == 2 && absl::SimpleAtoi(sides[0], &scheme->block_rows) &&
        absl::SimpleAtoi(sides[1], &scheme->block_cols) && scheme->block_rows > 0 &&
        scheme->block_cols > 0 && scheme->block_rows <= kSizeRange.max &&
        scheme->block_cols <= kSizeRange.max) {
      return;
    }
    weights.Fail("block_structure", Message("is ", Shown(text), ", must be like 128x128"));
    return;
  }
  const std::vector<int32_t> sides = weights.Ints("block_structure", kSizeRange);
  if (sides.size() != 2) {
    weights.Fail("block_structure", "must be two numbers, as strategy is block");
    return;
  }
  scheme->block_rows = sides[0];
  scheme->block_cols = sides[1];
}

void ReadStrategy(const JsonFields& weights, QuantizationScheme* scheme) {
  const bool packed = scheme->layout == QuantizedLayout::kPacked;
  const std::string strategy = weights.String("strategy", "tensor");
  if (strategy == "tensor" && !packed) {
    scheme->scales = ScaleUnit::kTensor;
  } else if (strategy == "channel") {
    // A packed matrix with a scale per row is one with a single group.
    scheme->scales = packed ? ScaleUnit::kGroup : ScaleUnit::kRow;
  } else if (strategy == "group" && packed) {
    scheme->scales = ScaleUnit::kGroup;
    scheme->group_size = weights.Int("group_size", -1, {-1, kSizeRange.max});
    if (scheme->group_size == 0 || !weights.Has("group_size")) {
      weights.Fail("group_size", "must be a positive number, as strategy is group");
    }
  } else if (strategy == "block" && scheme->layout == QuantizedLayout::kFp8) {
    scheme->scales = ScaleUnit::kBlock;
    ReadBlock(weights, scheme);
  } else {
    weights.Fail("strategy", Message("is ", Shown(strategy),
                                     ", which is not supported with this "
                                     "format"));
  }
}

// The layout that a format's name and the codes' type imply.
void ReadLayout(const JsonFields& weights, const std::string& format, QuantizationScheme* scheme) {
  const std::string type = weights.String("type", "int");
  scheme->bits = weights.Int("num_bits", 8, kBitsRange);
  const bool is_byte = scheme->bits == 8;
  if (format == "float-quantized" && type == "float" && is_byte) {
    scheme->layout = QuantizedLayout::kFp8;
  } else if (format == "int-quantized" && type == "int" && is_byte) {
    scheme->layout = QuantizedLayout::kInt8;
  } else if (format == "pack-quantized" && type == "int" && (is_byte || scheme->bits == 4)) {
    scheme->layout = QuantizedLayout::kPacked;
  } else {
    weights.Fail("num_bits", Message("is ", scheme->bits, " of type ", Shown(type), " in format ",
                                     Shown(format), ", which is not supported"));
  }
}

void ReadOrder(const JsonFields& weights, QuantizationScheme* scheme) {
  if (!weights.Has("actorder")) return;
  if (!weights.IsString("actorder")) {
    scheme->stores_groups = weights.Bool("actorder", false);
  } else if (const std::string order = weights.String("actorder", ""); order == "group") {
    scheme->stores_groups = true;
  } else if (order != "weight" && order != "static") {
    weights.Fail("actorder", Message("is ", Shown(order), ", which is not supported"));
  }
  if (scheme->stores_groups && scheme->layout != QuantizedLayout::kPacked) {
    weights.Fail("actorder", "is not supported with this format");
  }
}

void ReadActivations(const JsonFields& group, QuantizationScheme* scheme) {
  const std::optional<JsonFields> inputs = group.Object("input_activations");
  if (!inputs) return;
  if (inputs->IsString("dynamic") || !inputs->Bool("dynamic", false)) {
    inputs->Fail("dynamic", "is not true; only dynamic scales of activations are supported");
    return;
  }
  const std::string strategy = inputs->String("strategy", "token");
  const bool bytes = inputs->Int("num_bits", 8, kBitsRange) == 8 && inputs->Bool("symmetric", true);
  if (scheme->layout == QuantizedLayout::kInt8 && strategy == "token" && bytes) {
    scheme->activations = ActivationScheme::kInt8PerToken;
  } else if (scheme->layout == QuantizedLayout::kFp8 && strategy == "token" && bytes) {
    scheme->activations = ActivationScheme::kFp8PerToken;
  } else if (scheme->layout == QuantizedLayout::kFp8 && strategy == "group" && bytes) {
    scheme->activations = ActivationScheme::kFp8PerGroup;
  }
}

void ReadGroup(const JsonFields& group, const std::string& default_format,
               QuantizationConfig* config) {
  if (group.Has("output_activations")) {
    group.Fail("output_activations", "is not supported");
    return;
  }
  const std::optional<JsonFields> weights = group.Object("weights");
  if (!weights) {
    group.Fail("weights", "is missing");
    return;
  }
  QuantizationScheme scheme;
  ReadLayout(*weights, group.String("format", default_format), &scheme);
  ReadStrategy(*weights, &scheme);
  scheme.symmetric = weights->Bool("symmetric", true);
  if (!scheme.symmetric && scheme.layout != QuantizedLayout::kPacked) {
    weights->Fail("symmetric", "is false, which is not supported with this format");
  }
  scheme.negative_scales = scheme.symmetric && scheme.layout == QuantizedLayout::kPacked;
  if (weights->IsString("dynamic") || weights->Bool("dynamic", false)) {
    weights->Fail("dynamic", "is not false; weights have fixed scales");
  }
  ReadOrder(*weights, &scheme);
  ReadActivations(group, &scheme);
  config->groups.push_back({.targets = Patterns(group, "targets"), .scheme = scheme});
}

// Neither null nor {}.
void RefuseIfGiven(const JsonFields& fields, std::string_view key) {
  if (fields.Has(key) && !fields.IsEmptyObject(key)) fields.Fail(key, "is not supported");
}

}  // namespace

void ReadCompressedTensors(const JsonFields& fields, QuantizationConfig* config) {
  RefuseIfGiven(fields, "sparsity_config");
  RefuseIfGiven(fields, "transform_config");
  const std::string status = fields.String("quantization_status", "compressed");
  if (status != "compressed") {
    fields.Fail("quantization_status",
                Message("is ", Shown(status), "; only compressed checkpoints are supported"));
  }
  config->skip_list = "ignore";
  config->skipped = Patterns(fields, config->skip_list);
  config->kv_scales = fields.Has("kv_cache_scheme");
  const std::optional<JsonFields> groups = fields.Object("config_groups");
  const std::vector<std::string> keys = groups ? groups->Keys() : std::vector<std::string>();
  if (keys.empty() || keys.size() > kMaxGroups) {
    fields.Fail("config_groups", Message("must hold from 1 to ", kMaxGroups, " groups"));
    return;
  }
  for (const std::string& key : keys) {
    if (const std::optional<JsonFields> group = groups->Object(key)) {
      ReadGroup(*group, fields.String("format", ""), config);
    }
  }
}

}  // namespace tessera
