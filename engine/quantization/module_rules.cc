#include "engine/quantization/module_rules.h"

#include <string>
#include <utility>

#include "engine/files/message.h"
#include "kernels/core/status_macros.h"

namespace tessera {
namespace {

// Names are short; an expression that needs more is a trap.
constexpr RegexLimits kLimits{.steps = 20'000, .heap_kib = 1024};
constexpr size_t kMaxRegexes = 1024;

std::string_view Words(const absl::Status& status) {
  return {status.message().data(), status.message().size()};
}

absl::Status BadPattern(const ModulePattern& pattern, std::string_view why) {
  return absl::InvalidArgumentError(
      Message("config.json: quantization_config: \"", pattern.written.substr(0, 100), "\": ", why));
}

// The module itself or, for an entry that ends at a dot of the name, one that it is part of.
bool HasPart(std::string_view module, std::string_view text) {
  const std::string with_end = Message(module, ".");
  for (size_t at = with_end.find(text); at != std::string::npos; at = with_end.find(text, at + 1)) {
    const size_t end = at + text.size();
    if (text.ends_with('.') || with_end[end] == '.') return true;
  }
  return false;
}

// How closely a pattern of this kind names a module.
int Closeness(ModulePattern::Kind kind) {
  switch (kind) {
    case ModulePattern::Kind::kName:
      return 3;
    case ModulePattern::Kind::kRegex:
      return 2;
    case ModulePattern::Kind::kSubstring:
    case ModulePattern::Kind::kLinear:
      break;
  }
  return 1;
}

absl::Status AddRegex(const ModulePattern& pattern,
                      std::map<std::string, std::unique_ptr<const Pcre2Regex>>* regexes) {
  if (pattern.kind != ModulePattern::Kind::kRegex || regexes->contains(pattern.text)) {
    return absl::OkStatus();
  }
  if (regexes->size() == kMaxRegexes) return BadPattern(pattern, "too many expressions");
  absl::StatusOr<std::unique_ptr<const Pcre2Regex>> regex =
      Pcre2Regex::Compile(pattern.text, kLimits);
  if (!regex.ok()) return BadPattern(pattern, Message("no expression: ", Words(regex.status())));
  regexes->emplace(pattern.text, *std::move(regex));
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<ModuleRules> ModuleRules::Create(const std::optional<QuantizationConfig>& config) {
  ModuleRules rules;
  if (!config) return rules;
  auto copy = std::make_shared<const QuantizationConfig>(*config);
  auto regexes = std::make_shared<Regexes>();
  for (size_t i = 0; i < copy->skipped.size(); ++i) {
    const ModulePattern& pattern = copy->skipped[i];
    RETURN_IF_ERROR(AddRegex(pattern, regexes.get()));
    if (pattern.kind == ModulePattern::Kind::kName) {
      rules.skipped_names_.try_emplace(pattern.text, i);
    } else {
      rules.other_skipped_.push_back(i);
    }
  }
  for (const QuantizationGroup& group : copy->groups) {
    for (const ModulePattern& pattern : group.targets) {
      RETURN_IF_ERROR(AddRegex(pattern, regexes.get()));
    }
  }
  rules.config_ = std::move(copy);
  rules.regexes_ = std::move(regexes);
  return rules;
}

absl::StatusOr<bool> ModuleRules::Matches(const ModulePattern& pattern,
                                          std::string_view module) const {
  switch (pattern.kind) {
    case ModulePattern::Kind::kName:
      return module == pattern.text ||
             (module.starts_with(pattern.text) && module[pattern.text.size()] == '.');
    case ModulePattern::Kind::kSubstring:
      return !pattern.text.empty() && HasPart(module, pattern.text);
    case ModulePattern::Kind::kLinear:
      return true;
    case ModulePattern::Kind::kRegex:
      break;
  }
  Pcre2Regex::Workspace workspace;
  const absl::StatusOr<size_t> end = regexes_->at(pattern.text)->MatchEnd(module, 0, workspace);
  if (end.ok()) return true;
  if (absl::IsNotFound(end.status())) return false;
  return BadPattern(pattern, Words(end.status()));
}

absl::StatusOr<ModuleRules::Verdict> ModuleRules::Of(std::string_view module) const {
  Verdict verdict;
  if (config_ == nullptr) return verdict;
  // The module, then all that it is part of.
  for (std::string_view name = module; !name.empty() && verdict.skipped_by == nullptr;
       name = name.substr(0, name.rfind('.') == std::string_view::npos ? 0 : name.rfind('.'))) {
    const auto found = skipped_names_.find(name);
    if (found != skipped_names_.end()) verdict.skipped_by = &config_->skipped[found->second];
  }
  for (const size_t i : other_skipped_) {
    if (verdict.skipped_by != nullptr) break;
    ASSIGN_OR_RETURN(const bool matches, Matches(config_->skipped[i], module));
    if (matches) verdict.skipped_by = &config_->skipped[i];
  }
  int closest = 0;
  for (const QuantizationGroup& group : config_->groups) {
    for (const ModulePattern& pattern : group.targets) {
      if (Closeness(pattern.kind) <= closest) continue;
      ASSIGN_OR_RETURN(const bool matches, Matches(pattern, module));
      if (!matches) continue;
      closest = Closeness(pattern.kind);
      verdict.scheme = &group.scheme;
    }
  }
  return verdict;
}

}  // namespace tessera
