#include "server/option_yaml.h"

#include <yaml-cpp/yaml.h>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"

namespace tessera {

absl::StatusOr<YamlEntries> ParseOptionsYaml(const std::string& yaml, const std::string& source) {
  YamlEntries entries;
  try {
    const YAML::Node root = YAML::Load(yaml);
    if (root.IsNull()) return entries;
    if (!root.IsMap()) {
      return absl::InvalidArgumentError(absl::StrCat(source, ": must be a mapping, name: value"));
    }
    for (const auto& item : root) {
      if (!item.first.IsScalar()) {
        return absl::InvalidArgumentError(absl::StrCat(source, ": a name must be a plain word"));
      }
      const std::string name = absl::StrReplaceAll(item.first.Scalar(), {{"_", "-"}});
      const YAML::Node& value = item.second;
      std::vector<std::string> values;
      if (value.IsScalar()) values.push_back(value.Scalar());
      bool is_plain = value.IsScalar() || value.IsSequence();
      if (value.IsSequence()) {
        for (const auto& element : value) {
          is_plain = is_plain && element.IsScalar();
          values.push_back(element.IsScalar() ? element.Scalar() : "");
        }
      }
      if (!is_plain) {
        return absl::InvalidArgumentError(
            absl::StrCat(source, ": ", name, ": must be a value or a list of values"));
      }
      entries.emplace_back(name, std::move(values));
    }
  } catch (const std::exception& error) {  // yaml-cpp reports by exception
    return absl::InvalidArgumentError(absl::StrCat(source, ": not valid YAML: ", error.what()));
  }
  return entries;
}

}  // namespace tessera
