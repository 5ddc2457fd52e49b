// tessera quantize: a plain model folder as a quantised one.
#include <algorithm>
#include <array>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <system_error>

#include "absl/strings/str_cat.h"
#include "engine/checkpoint/checkpoint.h"
#include "engine/model/checkpoint_check.h"
#include "engine/model/checkpoint_quantizer.h"
#include "engine/model/model_config.h"
#include "kernels/core/control_group.h"
#include "kernels/core/status_macros.h"
#include "kernels/core/text_file.h"
#include "server/commands/command.h"
#include "server/commands/engine_flags.h"
#include "server/logging.h"
#include "server/model_runtime.h"

namespace tessera {
namespace {

using Json = nlohmann::ordered_json;

constexpr int64_t kMaxConfigBytes = int64_t{4} << 20;
// What a model folder has beside config.json and weights.
constexpr std::array<const char*, 9> kOtherFiles = {
    "generation_config.json",  "tokenizer.json", "tokenizer_config.json",
    "chat_template.jinja",     "vocab.json",     "merges.txt",
    "special_tokens_map.json", "LICENSE",        "added_tokens.json"};

Json WeightsOf(CodeFormat format) {
  const bool four_bits = format == CodeFormat::kInt4;
  Json weights = {{"num_bits", four_bits ? 4 : 8},
                  {"type", format == CodeFormat::kFp8 ? "float" : "int"},
                  {"symmetric", true},
                  {"dynamic", false},
                  {"strategy", four_bits ? "group" : "channel"},
                  {"group_size", nullptr}};
  if (four_bits) weights["group_size"] = kInt4Group;
  return weights;
}

// What compressed-tensors and the engines that read it expect.
Json QuantizationJson(CodeFormat format, const std::vector<std::string>& plain) {
  const char* const name = format == CodeFormat::kInt8   ? "int-quantized"
                           : format == CodeFormat::kInt4 ? "pack-quantized"
                                                         : "float-quantized";
  Json inputs = nullptr;
  if (format != CodeFormat::kInt4) {
    inputs = {{"num_bits", 8},
              {"type", format == CodeFormat::kFp8 ? "float" : "int"},
              {"symmetric", true},
              {"dynamic", true},
              {"strategy", "token"}};
  }
  Json ignore = plain;
  // Tied heads are no tensor of their own and yet a module.
  if (std::find(plain.begin(), plain.end(), "lm_head") == plain.end()) ignore.push_back("lm_head");
  return {{"quant_method", "compressed-tensors"},
          {"format", name},
          {"quantization_status", "compressed"},
          {"config_groups",
           {{"group_0",
             {{"targets", {"Linear"}},
              {"weights", WeightsOf(format)},
              {"input_activations", inputs},
              {"output_activations", nullptr}}}}},
          {"ignore", ignore},
          {"kv_cache_scheme", nullptr}};
}

absl::Status MakeFolder(const std::string& dir) {
  std::error_code error;
  std::filesystem::create_directories(dir, error);
  if (error) return absl::UnavailableError(absl::StrCat(dir, ": ", error.message()));
  if (std::filesystem::is_empty(dir, error) && !error) return absl::OkStatus();
  return absl::AlreadyExistsError(absl::StrCat(dir, ": is not empty; give a new folder"));
}

absl::Status CopyOtherFiles(const std::string& from, const std::string& to) {
  for (const char* const name : kOtherFiles) {
    std::error_code error;
    const std::filesystem::path source = std::filesystem::path(from) / name;
    if (!std::filesystem::exists(source, error)) continue;
    std::filesystem::copy_file(source, std::filesystem::path(to) / name, error);
    if (error) return absl::UnavailableError(absl::StrCat(to, "/", name, ": ", error.message()));
  }
  return absl::OkStatus();
}

absl::Status WriteText(const std::string& path, const std::string& text) {
  std::ofstream file(path, std::ios::binary);
  file << text;
  file.close();
  return file.fail() ? absl::DataLossError(absl::StrCat(path, ": cannot be written"))
                     : absl::OkStatus();
}

absl::Status Quantize(const std::string& from, const std::string& to, CodeFormat format,
                      int threads) {
  RETURN_IF_ERROR(CheckModelFolder(from));
  ASSIGN_OR_RETURN(const ModelConfig config, LoadModelConfig(from));
  ASSIGN_OR_RETURN(const std::unique_ptr<Checkpoint> checkpoint, Checkpoint::Open(from));
  RETURN_IF_ERROR(VerifyCheckpoint(config, *checkpoint).status());
  RETURN_IF_ERROR(MakeFolder(to));
  ASSIGN_OR_RETURN(
      const std::vector<std::string> plain,
      WriteQuantizedCheckpoint(config, *checkpoint, {.format = format, .threads = threads},
                               absl::StrCat(to, "/model.safetensors"), LogLoadProgress(from)));
  ASSIGN_OR_RETURN(const std::string text,
                   ReadTextFile(absl::StrCat(from, "/config.json"), kMaxConfigBytes));
  // It has been read as such a moment ago.
  Json json = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  json["quantization_config"] = QuantizationJson(format, plain);
  RETURN_IF_ERROR(CopyOtherFiles(from, to));
  return WriteText(absl::StrCat(to, "/config.json"), json.dump(2) + "\n");
}

}  // namespace

int RunQuantize(const Arguments& arguments) {
  OptionTable table("tessera quantize", "MODEL OUT",
                    "Writes the plain model in the folder MODEL to the new folder OUT with int8, "
                    "int4 or FP8 weights, in the layout of compressed-tensors.");
  std::string format = "int8";
  int32_t threads = UsableCpus();
  constexpr int32_t kMostThreads = 1024;
  table.Choice("format", &format, {"int8", "int4", "fp8"},
               "int8 and fp8: a scale per row; int4: one per 32 weights.");
  table.Integer("threads", &threads, {1, kMostThreads}, "Threads; all cores when it is not given.");
  std::vector<std::string> positional;
  if (const auto exit = ParseCommandLine(&table, "quantize", arguments, &positional, 2)) {
    return *exit;
  }
  InitLogging("info");
  const absl::StatusOr<CodeFormat> parsed = ParseCodeFormat(format);
  if (!parsed.ok()) return FailUsage("quantize", parsed.status());
  const absl::Status status = Quantize(positional[0], positional[1], *parsed, threads);
  return status.ok() ? kExitOk : Fail("quantize", status);
}

}  // namespace tessera
