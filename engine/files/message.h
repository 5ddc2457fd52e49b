// One-line messages from parts.
#ifndef TESSERA_ENGINE_FILES_MESSAGE_H_
#define TESSERA_ENGINE_FILES_MESSAGE_H_

#include <string>
#include <string_view>
#include <type_traits>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"

namespace tessera {

// absl::StrCat that also takes std::string_view, which Debian's Abseil keeps a type apart.
template <typename... Parts>
std::string Message(const Parts&... parts) {
  const auto adapt = [](const auto& part) -> decltype(auto) {
    if constexpr (std::is_same_v<std::decay_t<decltype(part)>, std::string_view>) {
      return absl::string_view(part.data(), part.size());
    } else {
      return (part);
    }
  };
  return absl::StrCat(adapt(parts)...);
}

}  // namespace tessera

#endif  // TESSERA_ENGINE_FILES_MESSAGE_H_
