// Writes a checkpoint with random weights: make_checkpoint --shape qwen3-0.6b --out DIR.
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <limits>
#include <optional>
#include <string>
#include <string_view>

#include "absl/strings/numbers.h"
#include "kernels/core/status_macros.h"
#include "kernels/core/text_file.h"
#include "tests/bench/model_shapes.h"
#include "tests/support/checkpoint_writer.h"

namespace tessera {
namespace {

constexpr std::string_view kUsage =
    "usage: make_checkpoint --shape NAME|FILE.json --out DIR [--dtype bfloat16|float16|float32]\n"
    "                       [--shards N] [--seed S] [--tokenizer DIR] [--fused-experts]\n"
    "Writes a Hugging Face model folder with random weights. FILE.json is a config.json.\n"
    "Names: ";

struct Arguments {
  std::string shape;
  std::string out;
  CheckpointWriterOptions options;
};

bool ParseValue(std::string_view name, const std::string& value, Arguments& arguments) {
  if (name == "--shape") {
    arguments.shape = value;
  } else if (name == "--out") {
    arguments.out = value;
  } else if (name == "--tokenizer") {
    arguments.options.tokenizer_directory = value;
  } else if (name == "--shards") {
    return absl::SimpleAtoi(value, &arguments.options.num_shards);
  } else if (name == "--seed") {
    return absl::SimpleAtoi(value, &arguments.options.seed);
  } else if (name == "--dtype") {
    const std::optional<DType> dtype = ParseDType(value);
    if (dtype) arguments.options.dtype = *dtype;
    return dtype.has_value();
  } else {
    return false;
  }
  return !value.empty();
}

std::optional<Arguments> Parse(int argc, char** argv) {
  Arguments arguments;
  for (int i = 1; i < argc; ++i) {
    if (std::strcmp(argv[i], "--fused-experts") == 0) {
      arguments.options.fused_experts = true;
    } else if (i + 1 == argc || !ParseValue(argv[i], argv[i + 1], arguments)) {
      return std::nullopt;
    } else {
      ++i;
    }
  }
  if (arguments.shape.empty() || arguments.out.empty()) return std::nullopt;
  return arguments;
}

absl::Status Write(const Arguments& arguments) {
  constexpr int64_t kMaxConfigBytes = int64_t{4} << 20;
  std::optional<std::string> config = ModelShapeConfig(arguments.shape);
  if (!config) {
    ASSIGN_OR_RETURN(config, ReadTextFile(arguments.shape, kMaxConfigBytes));
  }
  return WriteRandomCheckpoint(*config, arguments.out, arguments.options);
}

void PrintUsage() {
  std::fprintf(stderr, "%.*s", static_cast<int>(kUsage.size()), kUsage.data());
  for (const std::string_view name : ModelShapeNames()) {
    std::fprintf(stderr, "%.*s ", static_cast<int>(name.size()), name.data());
  }
  std::fprintf(stderr, "\n");
}

}  // namespace
}  // namespace tessera

int main(int argc, char** argv) {
  const std::optional<tessera::Arguments> arguments = tessera::Parse(argc, argv);
  if (!arguments) {
    tessera::PrintUsage();
    return 2;
  }
  const absl::Status status = tessera::Write(*arguments);
  if (status.ok()) return 0;
  std::fprintf(stderr, "make_checkpoint: %s\n", std::string(status.message()).c_str());
  return 1;
}
