#include "kernels/core/status_macros.h"

#include <cstdio>
#include <cstdlib>

namespace tessera {

void CheckFailed(std::string_view text, std::source_location where) {
  std::fprintf(stderr, "%s:%u: CHECK failed: %.*s\n", where.file_name(), where.line(),
               static_cast<int>(text.size()), text.data());
  std::abort();
}

}  // namespace tessera
