// What head and nodes tell each other beyond step plans: how to run the model, and what it took.
// Text, one "name value" per line, in a fixed order.
#ifndef TESSERA_ENGINE_EXECUTOR_GROUP_MESSAGES_H_
#define TESSERA_ENGINE_EXECUTOR_GROUP_MESSAGES_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/executor/executor.h"
#include "engine/executor/group_settings.h"
#include "engine/model/model_config.h"

namespace tessera {

std::string EncodeGroupSettings(const GroupSettings& settings);
// Decoded settings fit the model.
absl::StatusOr<GroupSettings> DecodeGroupSettings(const std::string& text,
                                                  const ModelConfig& config);

// What a node has loaded.
struct LoadReport {
  MemoryReport memory;
  std::vector<uint64_t> digests;  // of all tensors, see weight_digests.h
};

std::string EncodeLoadReport(const LoadReport& report);
absl::StatusOr<LoadReport> DecodeLoadReport(const std::string& text);

std::string EncodeMemoryReport(const MemoryReport& report);
absl::StatusOr<MemoryReport> DecodeMemoryReport(const std::string& text);

}  // namespace tessera

#endif  // TESSERA_ENGINE_EXECUTOR_GROUP_MESSAGES_H_
