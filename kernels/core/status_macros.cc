#include "kernels/core/status_macros.h"

#include <cstdio>
#include <cstdlib>

namespace tessera {

void CheckFailed(std::string_view text, const char* file, int line) {
  std::fprintf(stderr, "%s:%d: CHECK failed: %.*s\n", file, line, static_cast<int>(text.size()),
               text.data());
  std::abort();
}

}  // namespace tessera
