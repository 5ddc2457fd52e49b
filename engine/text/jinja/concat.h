// std::string_view for the functions of an Abseil that has a string_view of its own (Debian's).
#ifndef TESSERA_ENGINE_TEXT_JINJA_CONCAT_H_
#define TESSERA_ENGINE_TEXT_JINJA_CONCAT_H_

#include <string>
#include <string_view>
#include <type_traits>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"

namespace tessera::jinja {

inline absl::string_view ToAbsl(std::string_view text) { return {text.data(), text.size()}; }

template <typename T>
decltype(auto) ToAlphaNum(const T& part) {
  if constexpr (std::is_convertible_v<const T&, std::string_view>) {
    return ToAbsl(std::string_view(part));
  } else {
    return static_cast<const T&>(part);
  }
}

// absl::StrCat.
template <typename... Parts>
std::string Concat(const Parts&... parts) {
  return absl::StrCat(ToAlphaNum(parts)...);
}

}  // namespace tessera::jinja

#endif  // TESSERA_ENGINE_TEXT_JINJA_CONCAT_H_
