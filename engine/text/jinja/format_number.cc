#include "engine/text/jinja/format_number.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <utility>

#include "absl/strings/ascii.h"
#include "engine/text/jinja/concat.h"
#include "engine/text/jinja/json_write.h"
#include "engine/text/jinja/operators.h"
#include "engine/text/utf8.h"
#include "kernels/core/status_macros.h"

namespace tessera::jinja {
namespace {

constexpr std::string_view kAligns = "<>^=";

// Digits at `*at`, refused beyond kMaxFormatWidth; -1 if there are none.
absl::StatusOr<int> Number(std::string_view spec, size_t* at) {
  if (*at >= spec.size() || !absl::ascii_isdigit(static_cast<unsigned char>(spec[*at]))) return -1;
  int number = 0;
  for (; *at < spec.size() && absl::ascii_isdigit(static_cast<unsigned char>(spec[*at])); ++*at) {
    number = number * 10 + (spec[*at] - '0');
    if (number > kMaxFormatWidth) return absl::InvalidArgumentError("the format is too wide");
  }
  return number;
}

bool Accept(std::string_view spec, size_t* at, std::string_view any, char* found) {
  if (*at >= spec.size() || any.find(spec[*at]) == std::string_view::npos) return false;
  *found = spec[(*at)++];
  return true;
}

// The number as C prints it.
std::string Printed(char type, bool alternate, int precision, double number) {
  const std::string format = std::string("%") + (alternate ? "#" : "") + ".*" + type;
  char buffer[kMaxFormatWidth + 400];
  // The format is made of a known type above; its precision is bounded.
  const int length = std::snprintf(buffer, sizeof(buffer), format.c_str(), precision, number);
  return std::string(buffer, static_cast<size_t>(std::max(length, 0)));
}

int ExponentOf(const std::string& scientific) {
  const size_t e = scientific.find('e');
  return e == std::string::npos ? 0 : std::atoi(scientific.c_str() + e + 1);
}

// A float without a type: as repr, or to `precision` digits with at least one behind the point.
std::string Untyped(bool alternate, int precision, double number) {
  if (precision < 0) return FloatRepr(number);
  const int digits = std::max(precision, 1);
  if (alternate) return Printed('g', true, digits, number);
  const int exponent = ExponentOf(Printed('e', false, digits - 1, number));
  if (exponent < -4 || exponent >= digits) return Printed('g', false, digits, number);
  std::string text = Printed('g', false, digits, number);
  if (text.find('.') != std::string::npos) return text;
  if (exponent == digits - 1) {  // no digit is left for the fraction
    text = Printed('e', false, digits - 1, number);
    const size_t e = text.find('e');
    size_t end = e;
    while (text.find('.') < end && (text[end - 1] == '0' || text[end - 1] == '.')) --end;
    return text.substr(0, end) + text.substr(e);
  }
  return text + ".0";
}

FormattedNumber FormatFloat(const FormatSpec& spec, double number) {
  FormattedNumber out;
  if (std::signbit(number) && !std::isnan(number)) out.sign = "-";
  const double magnitude = std::fabs(number);
  const char lower = absl::ascii_tolower(static_cast<unsigned char>(spec.type));
  if (!std::isfinite(magnitude)) {
    out.digits = std::isnan(magnitude) ? "nan" : "inf";
    if (lower == '%') out.digits += "%";
  } else if (spec.type == '\0') {
    out.digits = Untyped(spec.alternate, spec.precision, magnitude);
  } else {
    const int precision = spec.precision < 0 ? 6 : spec.precision;
    const bool percent = spec.type == '%';
    out.digits = Printed(percent        ? 'f'
                         : lower == 'n' ? 'g'
                                        : lower,
                         spec.alternate, precision, percent ? magnitude * 100 : magnitude);
    if (percent) out.digits += "%";
  }
  if (absl::ascii_isupper(static_cast<unsigned char>(spec.type))) {
    absl::AsciiStrToUpper(&out.digits);
  }
  return out;
}

std::string InBase(uint64_t magnitude, unsigned base, bool upper) {
  static constexpr std::string_view kDigits[] = {"0123456789abcdef", "0123456789ABCDEF"};
  std::string digits;
  do {
    digits.push_back(kDigits[upper ? 1 : 0][magnitude % base]);
    magnitude /= base;
  } while (magnitude != 0);
  std::reverse(digits.begin(), digits.end());
  return digits;
}

absl::StatusOr<FormattedNumber> FormatInteger(const FormatSpec& spec, const Value& value) {
  FormattedNumber out;
  const bool decimal = spec.type == '\0' || spec.type == 'd' || spec.type == 'n';
  if (value.is_big()) {
    if (!decimal) return absl::InvalidArgumentError("an integer computation exceeds 64 bits");
    out.digits = value.as_big();
    if (out.digits[0] == '-') {
      out.sign = "-";
      out.digits.erase(0, 1);
    }
    return out;
  }
  const int64_t number = value.as_int();
  if (spec.type == 'c') {
    if (number < 0 || number > 0x10FFFF || (number >= 0xD800 && number < 0xE000)) {
      return absl::InvalidArgumentError("the number is no character");
    }
    AppendUtf8(static_cast<char32_t>(number), &out.digits);
    return out;
  }
  const uint64_t magnitude =
      number < 0 ? -static_cast<uint64_t>(number) : static_cast<uint64_t>(number);
  const char lower = absl::ascii_tolower(static_cast<unsigned char>(spec.type));
  const unsigned base = lower == 'x' ? 16 : lower == 'o' ? 8 : lower == 'b' ? 2 : 10;
  if (number < 0) out.sign = "-";
  out.digits = InBase(magnitude, base, spec.type == 'X');
  if (spec.alternate && !decimal) out.sign += std::string("0") + spec.type;
  return out;
}

void Group(char separator, std::string* digits) {
  const size_t integer =
      std::min(digits->find_first_not_of("0123456789abcdefABCDEF"), digits->size());
  for (size_t at = integer; at > 3; at -= 3) digits->insert(at - 3, 1, separator);
}

}  // namespace

absl::StatusOr<FormatSpec> ParseFormatSpec(std::string_view spec) {
  FormatSpec out;
  size_t at = 0;
  bool filled = false;
  if (!spec.empty()) {
    const size_t length = NextUtf8Unit(spec).length;
    if (length < spec.size() && kAligns.find(spec[length]) != std::string_view::npos) {
      filled = true;
      out.fill = std::string(spec.substr(0, length));
      at = length;
    }
    Accept(spec, &at, kAligns, &out.align);
  }
  char flag = '\0';
  Accept(spec, &at, "+- ", &out.sign);
  out.alternate = Accept(spec, &at, "#", &flag);
  // Behind a fill of one's own, a zero only begins the width.
  out.zeros = !filled && Accept(spec, &at, "0", &flag);
  if (out.zeros) out.fill = "0";
  ASSIGN_OR_RETURN(const int width, Number(spec, &at));
  out.width = std::max(width, 0);
  Accept(spec, &at, ",_", &out.grouping);
  if (Accept(spec, &at, ".", &flag)) {
    ASSIGN_OR_RETURN(out.precision, Number(spec, &at));
    if (out.precision < 0) return absl::InvalidArgumentError("the format lacks its precision");
  }
  Accept(spec, &at, "bcdeEfFgGnosxX%", &out.type);
  if (at != spec.size()) {
    return absl::InvalidArgumentError(Concat("invalid format '", spec.substr(0, 40), "'"));
  }
  if (out.zeros && out.grouping != '\0') {
    return absl::InvalidArgumentError("zeros between separators of thousands are not supported");
  }
  return out;
}

absl::StatusOr<FormattedNumber> FormatNumber(const FormatSpec& spec, const Value& value) {
  const bool as_float =
      value.is_float() ||
      (spec.type != '\0' && std::string_view("eEfFgG%").find(spec.type) != std::string_view::npos);
  if (spec.type == 's' || (value.is_float() && spec.type != '\0' &&
                           std::string_view("bcdoxX").find(spec.type) != std::string_view::npos)) {
    return absl::InvalidArgumentError(
        Concat("format '", std::string(1, spec.type), "' does not fit '", value.type_name(), "'"));
  }
  if (!as_float && spec.precision >= 0) {
    return absl::InvalidArgumentError("an integer has no precision");
  }
  FormattedNumber out;
  if (as_float) {
    out = FormatFloat(spec, ToDouble(value));
  } else {
    ASSIGN_OR_RETURN(out, FormatInteger(spec, value));
  }
  if (out.sign[0] != '-' && spec.sign != '-' && spec.type != 'c') out.sign.insert(0, 1, spec.sign);
  if (spec.grouping != '\0') Group(spec.grouping, &out.digits);
  return out;
}

}  // namespace tessera::jinja
