// The one reader of small files: configurations, tokenizers, keys, certificates.
#ifndef TESSERA_KERNELS_CORE_TEXT_FILE_H_
#define TESSERA_KERNELS_CORE_TEXT_FILE_H_

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"

namespace tessera {

// The whole file. Errors, each naming the path: NotFound when there is none, InvalidArgument when
// it is not a regular file (after symbolic links) or larger than max_bytes, PermissionDenied or
// Unavailable when the system refuses. Never blocks on a pipe or device; allocates at most the
// size of the file.
absl::StatusOr<std::string> ReadTextFile(const std::string& path, int64_t max_bytes);

}  // namespace tessera

#endif  // TESSERA_KERNELS_CORE_TEXT_FILE_H_
