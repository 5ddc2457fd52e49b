// Any index gives plain file names inside the folder, or an error.
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "engine/checkpoint/shard_index.h"
#include "kernels/core/status_macros.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto index =
      tessera::ParseShardIndex(std::string_view(reinterpret_cast<const char*>(data), size));
  if (!index.ok()) return 0;
  TESSERA_CHECK(!index->entries.empty());
  for (const std::string& file : index->files) {
    TESSERA_CHECK(!file.empty() && file.front() != '.');
    TESSERA_CHECK(file.find('/') == std::string::npos);
    TESSERA_CHECK(file.find('\0') == std::string::npos);
  }
  for (size_t i = 0; i < index->entries.size(); ++i) {
    TESSERA_CHECK(index->entries[i].file < index->files.size());
    TESSERA_CHECK(i == 0 || index->entries[i - 1].tensor < index->entries[i].tensor);
  }
  return 0;
}
