// Where exceptions end: those of third-party code and of the standard library become a status.
#ifndef TESSERA_KERNELS_CORE_EXCEPTION_BOUNDARY_H_
#define TESSERA_KERNELS_CORE_EXCEPTION_BOUNDARY_H_

#include <type_traits>

#include "absl/status/status.h"

namespace tessera {

// To be called where an exception is being handled: what it is as a status. RESOURCE_EXHAUSTED when
// memory ran out, else INTERNAL with the exception's own words.
absl::Status StatusOfException();

// What `work` returns, an absl::Status or StatusOr; if it throws, StatusOfException().
template <typename Work>
std::invoke_result_t<const Work&> Guarded(const Work& work) {
  try {
    return work();
  } catch (...) {
    return StatusOfException();
  }
}

}  // namespace tessera

#endif  // TESSERA_KERNELS_CORE_EXCEPTION_BOUNDARY_H_
