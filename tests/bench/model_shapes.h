// config.json texts of models to measure without their weights.
#ifndef TESSERA_TESTS_BENCH_MODEL_SHAPES_H_
#define TESSERA_TESTS_BENCH_MODEL_SHAPES_H_

#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace tessera {

// "qwen3-0.6b", "qwen3-1.7b", "qwen3-30b-a3b-8l" (eight layers of Qwen3-30B-A3B).
std::vector<std::string_view> ModelShapeNames();

// The text of config.json; nullopt for an unknown name.
std::optional<std::string> ModelShapeConfig(std::string_view name);

}  // namespace tessera

#endif  // TESSERA_TESTS_BENCH_MODEL_SHAPES_H_
