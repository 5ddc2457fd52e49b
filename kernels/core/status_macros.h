// Error flow: RETURN_IF_ERROR and ASSIGN_OR_RETURN for absl::Status, TESSERA_CHECK for broken
// invariants (never for input: nothing a user or a peer sends may reach a CHECK).
#ifndef TESSERA_KERNELS_CORE_STATUS_MACROS_H_
#define TESSERA_KERNELS_CORE_STATUS_MACROS_H_

#include <string_view>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace tessera {

// Prints "file:line: CHECK failed: text" to stderr and aborts.
// (Not std::source_location: clang 14 cannot read it from libstdc++ 12.)
[[noreturn]] void CheckFailed(std::string_view text, const char* file = __builtin_FILE(),
                              int line = __builtin_LINE());

}  // namespace tessera

#define TESSERA_CHECK(condition)                          \
  do {                                                    \
    if (!(condition)) ::tessera::CheckFailed(#condition); \
  } while (false)

#define RETURN_IF_ERROR(expression)                                         \
  do {                                                                      \
    if (absl::Status status_ = (expression); !status_.ok()) return status_; \
  } while (false)

#define TESSERA_CONCAT_(a, b) a##b
#define TESSERA_CONCAT(a, b) TESSERA_CONCAT_(a, b)
#define ASSIGN_OR_RETURN(target, expression) \
  ASSIGN_OR_RETURN_(TESSERA_CONCAT(status_or_, __LINE__), target, expression)
#define ASSIGN_OR_RETURN_(holder, target, expression)                                \
  auto holder = (expression);               /* NOLINT(bugprone-macro-parentheses) */ \
  if (!holder.ok()) return holder.status(); /* NOLINT(bugprone-macro-parentheses) */ \
  target = *std::move(holder)  // NOLINT(bugprone-macro-parentheses): may declare a variable

#endif  // TESSERA_KERNELS_CORE_STATUS_MACROS_H_
