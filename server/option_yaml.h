// The configuration file as a flat list.
#ifndef TESSERA_SERVER_OPTION_YAML_H_
#define TESSERA_SERVER_OPTION_YAML_H_

#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"

namespace tessera {

using YamlEntries = std::vector<std::pair<std::string, std::vector<std::string>>>;

// A YAML mapping of names to scalars or lists of scalars; "_" in names becomes "-". Errors name
// `source`.
absl::StatusOr<YamlEntries> ParseOptionsYaml(const std::string& yaml, const std::string& source);

}  // namespace tessera

#endif  // TESSERA_SERVER_OPTION_YAML_H_
