#include "engine/quantization/quantization_config.h"

#include <algorithm>
#include <array>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_join.h"
#include "engine/files/message.h"
#include "engine/quantization/compressed_tensors_config.h"

namespace tessera {
namespace {

constexpr IntRange kGroupRange{-1, 1 << 20};
constexpr IntRange kBlockRange{1, 1 << 20};
constexpr IntRange kBitsRange{1, 32};
// A fault is looked for per module and entry.
constexpr size_t kMaxOverrides = 1024;
constexpr std::string_view kAutoGptq = "auto_round:auto_gptq";
constexpr std::string_view kAutoAwq = "auto_round:auto_awq";

std::string Lower(const std::string& text) { return absl::AsciiStrToLower(text); }

std::string Shown(const std::string& text) { return Message("\"", text.substr(0, 60), "\""); }

void RefuseMethod(const JsonFields& config, std::string_view key, std::string_view method) {
  config.Fail(key, Message("asks for quant_method \"", std::string(method.substr(0, 60)),
                           "\", which is not supported; fp8, gptq, awq, compressed-tensors and "
                           "auto-round are, and bfloat16, float16 and float32 checkpoints"));
}

std::vector<ModulePattern> Patterns(const JsonFields& fields, std::string_view key,
                                    ModulePattern::Kind kind) {
  std::vector<ModulePattern> patterns;
  for (const std::string& text : fields.Strings(key)) {
    patterns.push_back({.kind = kind, .text = text, .written = text});
  }
  return patterns;
}

// One group for all matrices.
void AddGroup(const QuantizationScheme& scheme, QuantizationConfig* config) {
  config->groups.push_back(
      {.targets = {{.kind = ModulePattern::Kind::kLinear, .text = "Linear", .written = "Linear"}},
       .scheme = scheme});
}

// Bits per code under any of the names that tools gave the key.
int32_t Bits(const JsonFields& fields) {
  const std::string_view key = fields.Has("bits") || !fields.Has("w_bit") ? "bits" : "w_bit";
  if (!fields.Has(key)) fields.Fail(key, "is missing");
  return fields.Int(key, 4, kBitsRange);
}

int32_t GroupSize(const JsonFields& fields) {
  const std::string_view key =
      fields.Has("group_size") || !fields.Has("q_group_size") ? "group_size" : "q_group_size";
  if (!fields.Has(key)) fields.Fail(key, "is missing");
  const int32_t size = fields.Int(key, -1, kGroupRange);
  if (size == 0) fields.Fail(key, "is 0, must be -1 or positive");
  return size;
}

void ReadFp8(const JsonFields& fields, QuantizationConfig* config) {
  QuantizationScheme scheme{.layout = QuantizedLayout::kFp8};
  if (const std::string activations = fields.String("activation_scheme", "dynamic");
      activations != "dynamic") {
    fields.Fail("activation_scheme", Message("is ", Shown(activations),
                                             "; only dynamic "
                                             "scales of activations are supported"));
  }
  if (const std::string format = fields.String("fmt", "e4m3"); format != "e4m3") {
    fields.Fail("fmt", Message("is ", Shown(format), "; only e4m3 is supported"));
  }
  if (fields.Has("scale_fmt")) {
    fields.Fail("scale_fmt", Message("is ", Shown(fields.String("scale_fmt", "")),
                                     "; only scales in floating point are supported"));
  }
  scheme.activations = ActivationScheme::kFp8PerToken;
  scheme.scale_may_miss = true;
  if (fields.Has("weight_block_size")) {
    const std::vector<int32_t> block = fields.Ints("weight_block_size", kBlockRange);
    if (block.size() != 2) {
      fields.Fail("weight_block_size", "must be a list of two numbers");
    } else {
      scheme.scales = ScaleUnit::kBlock;
      scheme.block_rows = block[0];
      scheme.block_cols = block[1];
      scheme.scale_may_miss = false;
      scheme.activations = ActivationScheme::kFp8PerGroup;
    }
  }
  config->skip_list = "modules_to_not_convert";
  config->skipped = Patterns(fields, config->skip_list, ModulePattern::Kind::kName);
  for (ModulePattern& pattern : Patterns(fields, "ignored_layers", ModulePattern::Kind::kName)) {
    if (config->skipped.empty()) config->skip_list = "ignored_layers";
    config->skipped.push_back(std::move(pattern));
  }
  AddGroup(scheme, config);
}

// {"-:REGEX": {}} skips modules; {"+:REGEX": {...}}, or without a sign, sets other values for some.
void ReadDynamic(const JsonFields& fields, const QuantizationScheme& scheme,
                 QuantizationConfig* config) {
  const std::optional<JsonFields> dynamic = fields.Object("dynamic");
  if (!dynamic) return;
  const std::vector<std::string> keys = dynamic->Keys();
  if (keys.size() > kMaxOverrides) {
    fields.Fail("dynamic", Message("has more than ", kMaxOverrides, " entries"));
    return;
  }
  for (const std::string& key : keys) {
    if (key.starts_with("-:")) {
      config->skipped.push_back(
          {.kind = ModulePattern::Kind::kRegex, .text = key.substr(2), .written = key});
      continue;
    }
    const std::optional<JsonFields> values = dynamic->Object(key);
    if (!values) continue;
    const bool same =
        values->Int("bits", scheme.bits, kBitsRange) == scheme.bits &&
        values->Int("group_size", scheme.group_size, kGroupRange) == scheme.group_size;
    if (!same) {
      fields.Fail("dynamic", Message("sets other bits or another group_size for ", Shown(key),
                                     "; only equal ones for all modules are supported"));
    }
  }
}

QuantizationScheme GptqScheme(const JsonFields& fields) {
  QuantizationScheme scheme{.layout = QuantizedLayout::kGptq, .scales = ScaleUnit::kGroup};
  scheme.bits = Bits(fields);
  if (scheme.bits != 4 && scheme.bits != 8) {
    fields.Fail("bits", Message("is ", scheme.bits, "; only 4 and 8 are supported with GPTQ"));
  }
  scheme.group_size = GroupSize(fields);
  // Only a hint how zero points were chosen; they are stored all the same.
  scheme.symmetric = false;
  scheme.negative_scales = fields.Bool("sym", true);
  const std::string format = Lower(fields.String("checkpoint_format", "gptq"));
  scheme.zeros_less_one = format == "gptq";
  if (format != "gptq" && format != "gptq_v2") {
    fields.Fail("checkpoint_format",
                Message("is ", Shown(format), "; only gptq and gptq_v2 are supported"));
  }
  if (const std::string dtype = fields.String("pack_dtype", "int32"); dtype != "int32") {
    fields.Fail("pack_dtype", Message("is ", Shown(dtype), "; only int32 is supported"));
  }
  if (fields.Bool("is_marlin_format", false)) {
    fields.Fail("is_marlin_format", "is true; Marlin's layout is not supported");
  }
  return scheme;
}

void ReadGptq(const JsonFields& fields, QuantizationConfig* config) {
  const QuantizationScheme scheme = GptqScheme(fields);
  config->skip_list = "dynamic";
  config->quantizes_head = fields.OptionalBool("lm_head");
  ReadDynamic(fields, scheme, config);
  // Tools that quantise some modules only and do not say which they left out.
  config->lists_all_skipped = !fields.Has("modules_in_block_to_quantize");
  AddGroup(scheme, config);
}

QuantizationScheme AwqScheme(const JsonFields& fields) {
  QuantizationScheme scheme{
      .layout = QuantizedLayout::kAwq, .bits = 4, .scales = ScaleUnit::kGroup, .symmetric = false};
  if (const int32_t bits = Bits(fields); bits != 4) {
    fields.Fail("bits", Message("is ", bits, "; only 4 is supported with AWQ"));
  }
  scheme.group_size = GroupSize(fields);
  return scheme;
}

void ReadAwq(const JsonFields& fields, QuantizationConfig* config) {
  const QuantizationScheme scheme = AwqScheme(fields);
  if (const std::string version = fields.String("version", "gemm"); Lower(version) != "gemm") {
    fields.Fail("version", Message("is ", Shown(version), "; only gemm is supported"));
  }
  if (!fields.Bool("zero_point", true)) {
    fields.Fail("zero_point", "is false; only AWQ with zero points is supported");
  }
  config->skip_list = "modules_to_not_convert";
  config->skipped = Patterns(fields, config->skip_list, ModulePattern::Kind::kSubstring);
  AddGroup(scheme, config);
}

void ReadAutoRound(const JsonFields& fields, QuantizationConfig* config) {
  const std::string format = fields.String("packing_format", "");
  if (format == kAutoGptq) {
    ReadGptq(fields, config);
  } else if (format == kAutoAwq) {
    AddGroup(AwqScheme(fields), config);
    config->groups.back().scheme.negative_scales = fields.Bool("sym", true);
  } else {
    fields.Fail("packing_format", Message("is ", Shown(format), "; only ", kAutoGptq, " and ",
                                          kAutoAwq, " are supported"));
  }
  config->skip_list = "extra_config";
  config->lists_all_skipped = false;  // blocks are named by what was quantised
}

struct Method {
  std::string_view name;
  void (*read)(const JsonFields& fields, QuantizationConfig* config);
};
constexpr std::array<Method, 5> kMethods = {{{"fp8", ReadFp8},
                                             {"gptq", ReadGptq},
                                             {"awq", ReadAwq},
                                             {"compressed-tensors", ReadCompressedTensors},
                                             {"auto-round", ReadAutoRound}}};

std::optional<QuantizationConfig> ReadFrom(const JsonFields& config, std::string_view key) {
  const std::optional<JsonFields> fields = config.Object(key);
  if (!fields) return std::nullopt;
  const std::string method = fields->String("quant_method", "unnamed");
  for (const Method& known : kMethods) {
    if (Lower(method) != known.name) continue;
    QuantizationConfig quantization{.method = std::string(known.name)};
    known.read(*fields, &quantization);
    return quantization;
  }
  RefuseMethod(config, key, method);
  return std::nullopt;
}

std::string_view ScaleText(const QuantizationScheme& scheme) {
  switch (scheme.scales) {
    case ScaleUnit::kTensor:
      return "with a scale per matrix";
    case ScaleUnit::kRow:
      return "with a scale per row";
    case ScaleUnit::kGroup:
    case ScaleUnit::kBlock:
      break;
  }
  return "";
}

}  // namespace

std::string SchemeText(const QuantizationScheme& scheme) {
  const std::string codes =
      scheme.layout == QuantizedLayout::kFp8
          ? "fp8"
          : Message("int", scheme.bits, scheme.symmetric ? "" : " with zeros");
  if (scheme.scales == ScaleUnit::kBlock) {
    return Message(codes, " in blocks of ", scheme.block_rows, " x ", scheme.block_cols);
  }
  if (scheme.scales != ScaleUnit::kGroup) return Message(codes, " ", ScaleText(scheme));
  if (scheme.group_size < 0) return Message(codes, " in one group per row");
  return Message(codes, " in groups of ", scheme.group_size);
}

std::string QuantizationText(const QuantizationConfig& config) {
  std::vector<std::string> schemes;
  for (const QuantizationGroup& group : config.groups) {
    std::string text = SchemeText(group.scheme);
    const bool is_new = std::find(schemes.begin(), schemes.end(), text) == schemes.end();
    if (is_new) schemes.push_back(std::move(text));
  }
  return Message(config.method, ": ", absl::StrJoin(schemes, ", "));
}

std::optional<QuantizationConfig> ReadQuantization(const JsonFields& config) {
  if (config.Has("quantization")) {
    RefuseMethod(config, "quantization", "mlx");
    return std::nullopt;
  }
  return ReadFrom(config,
                  config.Has("quantization_config") ? "quantization_config" : "compression_config");
}

std::optional<QuantizationConfig> ReadGptqFile(const JsonFields& file,
                                               const std::optional<QuantizationConfig>& config) {
  if (config && config->method != "gptq") return config;
  QuantizationConfig own{.method = "gptq"};
  ReadGptq(file, &own);
  if (!config) return own;
  const QuantizationScheme& first = config->groups.front().scheme;
  const QuantizationScheme& second = own.groups.front().scheme;
  if (first.bits != second.bits) {
    file.Fail("bits", Message("is ", second.bits, ", but config.json says ", first.bits));
  }
  if (first.group_size != second.group_size) {
    file.Fail("group_size",
              Message("is ", second.group_size, ", but config.json says ", first.group_size));
  }
  if (file.Has("checkpoint_format") && first.zeros_less_one != second.zeros_less_one) {
    file.Fail("checkpoint_format", "is not that of config.json");
  }
  return config;
}

}  // namespace tessera
