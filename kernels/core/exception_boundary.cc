#include "kernels/core/exception_boundary.h"

#include <exception>
#include <new>

#include "absl/strings/str_cat.h"

namespace tessera {

absl::Status StatusOfException() {
  try {
    throw;
  } catch (const std::bad_alloc&) {
    return absl::ResourceExhaustedError("not enough memory for the request");
  } catch (const std::exception& error) {
    return absl::InternalError(absl::StrCat("processing the request failed: ", error.what()));
  } catch (...) {
    return absl::InternalError("processing the request failed");
  }
}

}  // namespace tessera
