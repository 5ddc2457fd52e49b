// What a format specification asks for, and numbers written so.
#ifndef TESSERA_ENGINE_TEXT_JINJA_FORMAT_NUMBER_H_
#define TESSERA_ENGINE_TEXT_JINJA_FORMAT_NUMBER_H_

#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "engine/text/jinja/value.h"

namespace tessera::jinja {

struct FormatSpec {
  std::string fill = " ";
  char align = '\0';  // < > ^ =, or the type's own
  char sign = '-';    // - + or space
  bool alternate = false;
  bool zeros = false;  // fill with zeros, behind the sign if no alignment is given
  char grouping = '\0';
  int64_t width = 0;
  int precision = -1;  // -1: none
  char type = '\0';
};

// A longer width or precision is refused: no template pads by thousands.
inline constexpr int kMaxFormatWidth = 10'000;

// [[fill]align][sign][#][0][width][grouping][.precision][type]. INVALID_ARGUMENT otherwise.
absl::StatusOr<FormatSpec> ParseFormatSpec(std::string_view spec);

// Sign and digits of a number, neither padded nor filled. Requires value.is_number().
struct FormattedNumber {
  std::string sign;    // with the prefix 0x of the alternate form
  std::string digits;  // with the fraction and the exponent
};
absl::StatusOr<FormattedNumber> FormatNumber(const FormatSpec& spec, const Value& value);

}  // namespace tessera::jinja

#endif  // TESSERA_ENGINE_TEXT_JINJA_FORMAT_NUMBER_H_
