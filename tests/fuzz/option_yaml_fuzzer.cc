// Any configuration file is either refused with one status or gives names and values.
#include <cstddef>
#include <cstdint>
#include <string>

#include "kernels/core/status_macros.h"
#include "server/option_yaml.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string yaml(reinterpret_cast<const char*>(data), size);
  const auto entries = tessera::ParseOptionsYaml(yaml, "fuzz.yaml");
  if (!entries.ok()) {
    TESSERA_CHECK(absl::IsInvalidArgument(entries.status()));
    TESSERA_CHECK(entries.status().message().find("fuzz.yaml") != absl::string_view::npos);
  }
  return 0;
}
