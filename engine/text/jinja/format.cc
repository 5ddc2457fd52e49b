#include "engine/text/jinja/format.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "engine/text/jinja/concat.h"
#include "engine/text/jinja/format_number.h"
#include "engine/text/jinja/operators.h"
#include "engine/text/jinja/string_methods.h"
#include "kernels/core/status_macros.h"

namespace tessera::jinja {
namespace {

// `text`, cut to the precision and padded.
absl::Status AppendPadded(Budget* budget, const FormatSpec& spec, const Text& text,
                          TextBuilder* out) {
  Text shown = text;
  if (spec.precision >= 0) {
    const std::vector<size_t> offsets = CodePointOffsets(text.bytes());
    const size_t keep = std::min(offsets.size() - 1, static_cast<size_t>(spec.precision));
    shown = text.Slice(0, offsets[keep]);
  }
  ASSIGN_OR_RETURN(const Value padded, Pad(budget, shown,
                                           {.width = spec.width,
                                            .align = spec.align == '\0' ? '<' : spec.align,
                                            .fill = spec.fill}));
  out->Append(padded.text());
  return absl::OkStatus();
}

absl::Status AppendNumber(Budget* budget, const FormatSpec& spec, const Value& value,
                          TextBuilder* out) {
  ASSIGN_OR_RETURN(const FormattedNumber number, FormatNumber(spec, value));
  FormatSpec whole = spec;
  whole.precision = -1;
  if (whole.align == '\0') whole.align = '>';
  // Zeros and '=' go between the sign and the digits.
  if ((spec.zeros && spec.align == '\0') || spec.align == '=') {
    whole.align = '>';
    whole.width -= static_cast<int64_t>(number.sign.size());
    out->Append(number.sign);
    return AppendPadded(budget, whole, Text(number.digits), out);
  }
  return AppendPadded(budget, whole, Text(number.sign + number.digits), out);
}

// One format of one value, as format(value, spec).
absl::Status AppendFormatted(Budget* budget, std::string_view specification, const Value& value,
                             TextBuilder* out) {
  if (specification.empty()) return AppendStr(budget, value, out);
  if (!value.is_number() && !value.is_string()) {
    return absl::InvalidArgumentError(
        Concat("'", value.type_name(), "' cannot be formatted by '", specification, "'"));
  }
  ASSIGN_OR_RETURN(FormatSpec spec, ParseFormatSpec(specification));
  if (value.is_number()) return AppendNumber(budget, spec, value, out);
  if ((spec.type != '\0' && spec.type != 's') || spec.align == '=' || spec.sign != '-' ||
      spec.alternate || spec.grouping != '\0') {
    return absl::InvalidArgumentError(Concat("'", specification, "' does not format a string"));
  }
  return AppendPadded(budget, spec, value.text(), out);
}

// "%..." conversions, one after another.
class PercentFormatter {
 public:
  PercentFormatter(Budget* budget, const Text& format, const Value& value)
      : budget_(budget), format_(format), bytes_(format.bytes()), value_(value) {}

  absl::StatusOr<Value> Run() {
    while (at_ < bytes_.size()) {
      const size_t percent = std::min(bytes_.find('%', at_), bytes_.size());
      out_.AppendRange(format_, at_, percent);
      at_ = percent;
      if (at_ < bytes_.size()) RETURN_IF_ERROR(Conversion());
    }
    const bool may_be_left =
        value_.is_dict() || value_.is_list() || value_.is_undefined() || value_.is_object();
    if (is_tuple() ? used_ < value_.list().items.size() : used_ == 0 && !may_be_left) {
      return absl::InvalidArgumentError("too many arguments for the format string");
    }
    return NewText(budget_, std::move(out_).Build());
  }

 private:
  bool is_tuple() const { return value_.is_list() && value_.list().tuple; }
  char Peek() const { return at_ < bytes_.size() ? bytes_[at_] : '\0'; }

  absl::StatusOr<Value> Next() {
    if (used_ >= (is_tuple() ? value_.list().items.size() : 1)) {
      return absl::InvalidArgumentError("not enough arguments for the format string");
    }
    ++used_;
    return is_tuple() ? value_.list().items[used_ - 1] : value_;
  }

  // Digits or *, 0 if neither stands there.
  absl::StatusOr<int64_t> Width() {
    int64_t width = 0;
    if (Peek() == '*') {
      ++at_;
      ASSIGN_OR_RETURN(const Value given, Next());
      if (!given.is_int()) return absl::InvalidArgumentError("* needs an integer");
      width = given.as_int();
    }
    while (absl::ascii_isdigit(static_cast<unsigned char>(Peek()))) {
      width = std::min<int64_t>(width, kMaxFormatWidth) * 10 + (bytes_[at_++] - '0');
    }
    if (width > kMaxFormatWidth || width < -kMaxFormatWidth) {
      return absl::InvalidArgumentError("the format is too wide");
    }
    return width;
  }

  absl::StatusOr<FormatSpec> Flags() {
    FormatSpec spec;
    spec.align = '>';
    for (;; ++at_) {
      const char flag = Peek();
      if (flag == '-') {
        spec.align = '<';
      } else if (flag == '0') {
        spec.zeros = true;
      } else if (flag == '#') {
        spec.alternate = true;
      } else if (flag == '+' || (flag == ' ' && spec.sign != '+')) {
        spec.sign = flag;
      } else if (flag != ' ') {
        break;
      }
    }
    ASSIGN_OR_RETURN(spec.width, Width());
    if (spec.width < 0) {
      spec.align = '<';
      spec.width = -spec.width;
    }
    if (Peek() == '.') {
      ++at_;
      ASSIGN_OR_RETURN(const int64_t precision, Width());
      spec.precision = static_cast<int>(std::max<int64_t>(precision, 0));
    }
    while (Peek() == 'l' || Peek() == 'h' || Peek() == 'L') ++at_;
    return spec;
  }

  // "(key)" of a dict.
  absl::StatusOr<Value> Keyed() {
    const size_t end = bytes_.find(')', at_);
    if (end == std::string::npos || !value_.is_dict()) {
      return absl::InvalidArgumentError("a format with keys needs a dict");
    }
    const std::string key = bytes_.substr(at_ + 1, end - at_ - 1);
    at_ = end + 1;
    const Value* found = value_.dict().Find(std::string_view(key));
    if (found == nullptr) return absl::InvalidArgumentError(Concat("there is no key '", key, "'"));
    used_ = 1;
    return *found;
  }

  absl::Status Conversion() {
    const size_t percent = at_++;
    std::optional<Value> keyed;
    if (Peek() == '(') {
      ASSIGN_OR_RETURN(keyed, Keyed());
    }
    ASSIGN_OR_RETURN(FormatSpec spec, Flags());
    spec.type = Peek();
    ++at_;
    if (spec.type == '%') {
      out_.AppendRange(format_, percent, percent + 1);
      return absl::OkStatus();
    }
    if (spec.type == '\0' ||
        std::string_view("srdiuxXoeEfFgGc").find(spec.type) == std::string_view::npos) {
      return absl::InvalidArgumentError("unsupported format after '%'");
    }
    Value argument;
    if (keyed) {
      argument = *std::move(keyed);
    } else {
      ASSIGN_OR_RETURN(argument, Next());
    }
    return AppendOne(std::move(spec), argument);
  }

  absl::Status AppendOne(FormatSpec spec, const Value& argument) {
    const char type = spec.type;
    if (type == 's' || type == 'r' || (type == 'c' && argument.is_string())) {
      TextBuilder text;
      RETURN_IF_ERROR(type == 'r' ? AppendRepr(budget_, argument, &text)
                                  : AppendStr(budget_, argument, &text));
      return AppendPadded(budget_, spec, std::move(text).Build(), &out_);
    }
    if (!argument.is_number()) {
      return absl::InvalidArgumentError(
          Concat("%", std::string(1, type), " needs a number, not '", argument.type_name(), "'"));
    }
    Value number = argument;
    const bool decimal = type == 'd' || type == 'i' || type == 'u';
    if (decimal) {
      spec.type = 'd';
      if (number.is_float()) {
        const double truncated = std::trunc(number.as_float());
        if (!(std::fabs(truncated) < 9.2e18)) {
          return absl::InvalidArgumentError("an integer computation exceeds 64 bits");
        }
        number = Value::Int(static_cast<int64_t>(truncated));
      }
    }
    if (type == 'c') {
      spec.precision = -1;
      spec.zeros = false;
    }
    spec.zeros = spec.zeros && spec.align == '>';
    if (spec.zeros) {  // behind the sign
      spec.align = '\0';
      spec.fill = "0";
    }
    if (decimal || type == 'x' || type == 'X' || type == 'o') return AppendDigits(spec, number);
    return AppendNumber(budget_, spec, number, &out_);
  }

  // An integer's precision is the least number of its digits.
  absl::Status AppendDigits(FormatSpec spec, const Value& number) {
    const int least = std::exchange(spec.precision, -1);
    if (least < 0) return AppendNumber(budget_, spec, number, &out_);
    ASSIGN_OR_RETURN(FormattedNumber digits, FormatNumber(spec, number));
    const auto missing = static_cast<int64_t>(least) - static_cast<int64_t>(digits.digits.size());
    if (missing > 0) digits.digits.insert(0, static_cast<size_t>(missing), '0');
    if (spec.zeros && spec.align == '\0') {
      const auto length = static_cast<int64_t>(digits.sign.size() + digits.digits.size());
      const int64_t zeros = std::max<int64_t>(spec.width - length, 0);
      digits.digits.insert(0, static_cast<size_t>(zeros), '0');
    }
    if (spec.align == '\0') spec.align = '>';
    return AppendPadded(budget_, spec, Text(digits.sign + digits.digits), &out_);
  }

  Budget* const budget_;
  const Text& format_;
  const std::string& bytes_;
  const Value& value_;
  size_t at_ = 0;
  size_t used_ = 0;
  TextBuilder out_;
};

// "{...}" fields, one after another.
class BraceFormatter {
 public:
  BraceFormatter(Budget* budget, const Text& format, const Arguments& args)
      : budget_(budget), format_(format), bytes_(format.bytes()), args_(args) {}

  absl::StatusOr<Value> Run() {
    size_t at = 0;
    while (at < bytes_.size()) {
      const size_t brace = std::min(bytes_.find_first_of("{}", at), bytes_.size());
      out_.AppendRange(format_, at, brace);
      at = brace;
      if (at == bytes_.size()) break;
      if (bytes_[at] == bytes_[std::min(at + 1, bytes_.size() - 1)] && at + 1 < bytes_.size()) {
        out_.AppendRange(format_, at, at + 1);
        at += 2;
        continue;
      }
      const size_t end = bytes_[at] == '{' ? bytes_.find('}', at) : std::string::npos;
      if (end == std::string::npos) {
        return absl::InvalidArgumentError("a format string has a single brace");
      }
      RETURN_IF_ERROR(Field(std::string_view(bytes_).substr(at + 1, end - at - 1)));
      at = end + 1;
    }
    return NewText(budget_, std::move(out_).Build());
  }

 private:
  absl::Status Field(std::string_view field) {
    RETURN_IF_ERROR(budget_->Step());
    if (field.find('{') != std::string_view::npos) {
      return absl::InvalidArgumentError("nested fields in a format are not supported");
    }
    const size_t colon = std::min(field.find(':'), field.size());
    const std::string_view spec =
        colon < field.size() ? field.substr(colon + 1) : std::string_view();
    std::string_view name = field.substr(0, colon);
    char conversion = '\0';
    if (name.size() >= 2 && name[name.size() - 2] == '!') {
      conversion = name.back();
      name.remove_suffix(2);
    }
    ASSIGN_OR_RETURN(Value value, Resolve(name));
    if (conversion != '\0' && conversion != 's' && conversion != 'r') {
      return absl::InvalidArgumentError("a format converts by !s or !r only");
    }
    if (conversion != '\0') {
      TextBuilder shown;
      RETURN_IF_ERROR(conversion == 'r' ? AppendRepr(budget_, value, &shown)
                                        : AppendStr(budget_, value, &shown));
      value = Value::FromText(std::move(shown).Build());
    }
    return AppendFormatted(budget_, spec, value, &out_);
  }

  absl::StatusOr<Value> First(std::string_view name) {
    size_t index = next_;
    if (name.empty()) {
      ++next_;
    } else if (!absl::SimpleAtoi(ToAbsl(name), &index)) {
      for (const auto& [key, value] : args_.named) {
        if (key == name) return value;
      }
      return absl::InvalidArgumentError(Concat("the format has no argument '", name, "'"));
    }
    if (index < args_.positional.size()) return args_.positional[index];
    return absl::InvalidArgumentError("not enough arguments for the format string");
  }

  // name, then .attribute or [item] as often as one stands there.
  absl::StatusOr<Value> Resolve(std::string_view name) {
    size_t at = std::min(name.find_first_of(".["), name.size());
    ASSIGN_OR_RETURN(Value value, First(name.substr(0, at)));
    while (at < name.size()) {
      const bool item = name[at] == '[';
      const size_t stop = item ? name.find(']', at) : name.find_first_of(".[", at + 1);
      if (item && stop == std::string_view::npos) {
        return absl::InvalidArgumentError("a format lacks its ']'");
      }
      const size_t end = std::min(stop, name.size());
      const std::string_view part = name.substr(at + 1, end - at - 1);
      int64_t index = 0;
      if (!item) {
        ASSIGN_OR_RETURN(value, GetAttribute(value, part));
      } else {
        const Value key = absl::SimpleAtoi(ToAbsl(part), &index) ? Value::Int(index)
                                                                 : Value::String(std::string(part));
        ASSIGN_OR_RETURN(value, GetItem(budget_, value, key));
      }
      at = item ? end + 1 : end;
    }
    return value;
  }

  Budget* const budget_;
  const Text& format_;
  const std::string& bytes_;
  const Arguments& args_;
  size_t next_ = 0;
  TextBuilder out_;
};

}  // namespace

absl::StatusOr<Value> FormatPercent(Budget* budget, const Text& format, const Value& value) {
  return PercentFormatter(budget, format, value).Run();
}

absl::StatusOr<Value> FormatBraces(Budget* budget, const Text& format, const Arguments& args) {
  return BraceFormatter(budget, format, args).Run();
}

}  // namespace tessera::jinja
