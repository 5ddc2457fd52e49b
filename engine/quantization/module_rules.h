// Which matrices of a model are quantised, and how, by the word of config.json.
#ifndef TESSERA_ENGINE_QUANTIZATION_MODULE_RULES_H_
#define TESSERA_ENGINE_QUANTIZATION_MODULE_RULES_H_

#include <map>
#include <memory>
#include <optional>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/quantization/quantization_config.h"
#include "engine/text/pcre2_regex.h"

namespace tessera {

// Immutable after Create; any number of threads.
class ModuleRules {
 public:
  // Of a checkpoint that is not quantised: no module is.
  ModuleRules() = default;
  // INVALID_ARGUMENT for an expression that is none. The configuration is copied.
  static absl::StatusOr<ModuleRules> Create(const std::optional<QuantizationConfig>& config);

  struct Verdict {
    // Of the group that names the module most closely; null when none does.
    const QuantizationScheme* scheme = nullptr;
    // The entry that says that the module is not quantised, or null.
    const ModulePattern* skipped_by = nullptr;
  };
  // `module`: "model.layers.0.mlp.down_proj". INVALID_ARGUMENT when an expression takes too many
  // steps. What is returned lives as long as the rules.
  absl::StatusOr<Verdict> Of(std::string_view module) const;

  // null when the checkpoint is not quantised.
  const QuantizationConfig* config() const { return config_.get(); }

 private:
  using Regexes = std::map<std::string, std::unique_ptr<const Pcre2Regex>>;

  absl::StatusOr<bool> Matches(const ModulePattern& pattern, std::string_view module) const;

  // Behind pointers, so that what verdicts point to stays where it is when the rules are moved.
  std::shared_ptr<const QuantizationConfig> config_;
  std::shared_ptr<const Regexes> regexes_;  // by their text
  // Places in config_->skipped of entries that name modules; the others are tried one by one.
  absl::flat_hash_map<std::string_view, size_t> skipped_names_;
  std::vector<size_t> other_skipped_;
};

}  // namespace tessera

#endif  // TESSERA_ENGINE_QUANTIZATION_MODULE_RULES_H_
