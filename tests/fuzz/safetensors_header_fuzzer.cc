// The first bytes of a checkpoint come from strangers: any header must give consistent entries or
// an error.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "engine/checkpoint/safetensors_header.h"
#include "kernels/core/status_macros.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using tessera::SafetensorsEntry;
  // The first two bytes stand for the size of the data, the rest is the header.
  if (size < 2) return 0;
  const int64_t data_bytes = data[0] * 256 + data[1];
  const std::string_view header(reinterpret_cast<const char*>(data) + 2, size - 2);
  const int64_t begin = 8 + static_cast<int64_t>(header.size());
  const auto entries = tessera::ParseSafetensorsHeader(header, begin + data_bytes);
  if (!entries.ok()) {
    TESSERA_CHECK(!entries.status().message().empty());
    TESSERA_CHECK(entries.status().message().find('\n') == absl::string_view::npos);
    return 0;
  }
  int64_t next = begin;
  for (const SafetensorsEntry& entry : *entries) {
    TESSERA_CHECK(entry.data_begin == next);
    next += entry.num_bytes;
  }
  TESSERA_CHECK(next == begin + data_bytes);
  return 0;
}
