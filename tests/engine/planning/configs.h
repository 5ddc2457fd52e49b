// Configurations of published models, from tests/data.
#ifndef TESSERA_TESTS_ENGINE_PLANNING_CONFIGS_H_
#define TESSERA_TESTS_ENGINE_PLANNING_CONFIGS_H_

#include <string>

#include "engine/model/model_config.h"
#include "engine/planning/layout_plan.h"
#include "gtest/gtest.h"

namespace tessera {

inline ModelConfig PublishedConfig(const std::string& name) {
  const std::string path =
      std::string(TESSERA_TEST_DATA) + "/reference/configs/" + name + ".config.json";
  const absl::StatusOr<ModelConfig> config = LoadPlanConfig(path);
  EXPECT_TRUE(config.ok()) << config.status();
  return config.ok() ? *config : ModelConfig();
}

inline GpuSpec Gpu(const std::string& name) {
  const absl::StatusOr<GpuSpec> gpu = FindGpu(name);
  EXPECT_TRUE(gpu.ok()) << gpu.status();
  return gpu.ok() ? *gpu : GpuSpec();
}

}  // namespace tessera

#endif  // TESSERA_TESTS_ENGINE_PLANNING_CONFIGS_H_
