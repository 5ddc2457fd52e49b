#include "engine/checkpoint/json_scanner.h"

#include <limits>

#include "engine/checkpoint/message.h"
#include "kernels/core/status_macros.h"

namespace tessera {
namespace {

constexpr int64_t kMaxInteger = int64_t{1} << 53;

bool IsDigit(char byte) { return byte >= '0' && byte <= '9'; }

void AppendUtf8(uint32_t code, std::string& value) {
  if (code < 0x80) {
    value += static_cast<char>(code);
    return;
  }
  const int tail = code < 0x800 ? 1 : code < 0x10000 ? 2 : 3;
  constexpr uint32_t kLead[] = {0x00, 0xc0, 0xe0, 0xf0};
  value += static_cast<char>(kLead[tail] | (code >> (6 * tail)));
  for (int i = tail - 1; i >= 0; --i) {
    value += static_cast<char>(0x80U | ((code >> (6 * i)) & 0x3fU));
  }
}

}  // namespace

absl::Status JsonScanner::Error(std::string_view what) const {
  return absl::InvalidArgumentError(Message(what, " at byte ", position_));
}

void JsonScanner::SkipSpace() {
  while (position_ < text_.size()) {
    const char byte = text_[position_];
    if (byte != ' ' && byte != '\n' && byte != '\t' && byte != '\r') return;
    ++position_;
  }
}

char JsonScanner::Peek() {
  SkipSpace();
  return at_end() ? '\0' : text_[position_];
}

bool JsonScanner::Accept(char byte) {
  if (Peek() != byte || at_end()) return false;
  ++position_;
  return true;
}

absl::Status JsonScanner::Expect(char byte) {
  if (Accept(byte)) return absl::OkStatus();
  return Error(Message("expected '", std::string(1, byte), "'"));
}

absl::Status JsonScanner::ReadString(size_t max_bytes, std::string& value) {
  value.clear();
  return ScanString(max_bytes, &value);
}

absl::Status JsonScanner::ScanString(size_t max_bytes, std::string* value) {
  RETURN_IF_ERROR(Expect('"'));
  while (true) {
    if (at_end()) return Error("string without end");
    if (value != nullptr && value->size() > max_bytes) {
      return Error(Message("string of more than ", max_bytes, " bytes"));
    }
    const auto byte = static_cast<unsigned char>(text_[position_]);
    if (byte == '"') {
      ++position_;
      return absl::OkStatus();
    }
    if (byte < 0x20) return Error("control character in a string");
    if (byte == '\\') {
      RETURN_IF_ERROR(ScanEscape(value));
    } else if (byte >= 0x80) {
      RETURN_IF_ERROR(ScanUtf8(value));
    } else {
      if (value != nullptr) *value += static_cast<char>(byte);
      ++position_;
    }
  }
}

absl::Status JsonScanner::ReadHex4(uint32_t& value) {
  if (text_.size() - position_ < 4) return Error("escape without end");
  value = 0;
  for (int i = 0; i < 4; ++i) {
    const char digit = text_[position_++];
    const char lower = static_cast<char>(digit | 0x20);
    value <<= 4;
    if (IsDigit(digit)) {
      value |= static_cast<uint32_t>(digit - '0');
    } else if (lower >= 'a' && lower <= 'f') {
      value |= static_cast<uint32_t>(lower - 'a' + 10);
    } else {
      return Error("bad hexadecimal escape");
    }
  }
  return absl::OkStatus();
}

absl::Status JsonScanner::ScanEscape(std::string* value) {
  ++position_;  // the backslash
  if (at_end()) return Error("escape without end");
  constexpr std::string_view kNames = "\"\\/bfnrt";
  constexpr std::string_view kValues = "\"\\/\b\f\n\r\t";
  const char name = text_[position_++];
  if (const size_t index = kNames.find(name); index != std::string_view::npos) {
    if (value != nullptr) *value += kValues[index];
    return absl::OkStatus();
  }
  if (name != 'u') return Error("unknown escape");
  uint32_t code = 0;
  RETURN_IF_ERROR(ReadHex4(code));
  if (code >= 0xdc00 && code < 0xe000) return Error("lone surrogate");
  if (code >= 0xd800 && code < 0xdc00) {
    if (text_.substr(position_, 2) != "\\u") return Error("lone surrogate");
    position_ += 2;
    uint32_t low = 0;
    RETURN_IF_ERROR(ReadHex4(low));
    if (low < 0xdc00 || low >= 0xe000) return Error("lone surrogate");
    code = 0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00);
  }
  if (value != nullptr) AppendUtf8(code, *value);
  return absl::OkStatus();
}

absl::Status JsonScanner::ScanUtf8(std::string* value) {
  const auto lead = static_cast<unsigned char>(text_[position_]);
  const size_t length = lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;
  if (lead < 0xc2 || lead > 0xf4 || text_.size() - position_ < length) {
    return Error("invalid UTF-8");
  }
  uint32_t code = lead & (0xffU >> (length + 1));
  for (size_t i = 1; i < length; ++i) {
    const auto byte = static_cast<unsigned char>(text_[position_ + i]);
    if ((byte & 0xc0U) != 0x80U) return Error("invalid UTF-8");
    code = (code << 6) | (byte & 0x3fU);
  }
  // Overlong forms, surrogates and what lies beyond Unicode.
  if ((length == 3 && code < 0x800) || (length == 4 && code < 0x10000) || code > 0x10ffff ||
      (code >= 0xd800 && code < 0xe000)) {
    return Error("invalid UTF-8");
  }
  if (value != nullptr) value->append(text_.substr(position_, length));
  position_ += length;
  return absl::OkStatus();
}

absl::Status JsonScanner::ReadUnsigned(int64_t& value) {
  if (!IsDigit(Peek())) return Error("expected a whole number of at least 0");
  const size_t begin = position_;
  value = 0;
  while (!at_end() && IsDigit(text_[position_])) {
    value = value * 10 + (text_[position_++] - '0');
    if (value > kMaxInteger) return Error("number above 2^53");
  }
  if (text_[begin] == '0' && position_ - begin > 1) return Error("number with a leading zero");
  if (!at_end() && (text_[position_] == '.' || (text_[position_] | 0x20) == 'e')) {
    return Error("expected a whole number");
  }
  return absl::OkStatus();
}

bool JsonScanner::SkipDigits() {
  const size_t begin = position_;
  while (!at_end() && IsDigit(text_[position_])) ++position_;
  return position_ > begin;
}

absl::Status JsonScanner::SkipNumber() {
  const auto skip_one_of = [this](std::string_view bytes) {
    if (at_end() || bytes.find(text_[position_]) == std::string_view::npos) return false;
    ++position_;
    return true;
  };
  skip_one_of("-");
  if (!skip_one_of("0") && !SkipDigits()) return Error("expected a value");
  if (skip_one_of(".") && !SkipDigits()) return Error("number without fraction digits");
  if (skip_one_of("eE")) {
    skip_one_of("+-");
    if (!SkipDigits()) return Error("number without exponent digits");
  }
  return absl::OkStatus();
}

absl::Status JsonScanner::SkipWord(std::string_view word) {
  if (text_.substr(position_, word.size()) != word) return Error("expected a value");
  position_ += word.size();
  return absl::OkStatus();
}

absl::Status JsonScanner::SkipObject(int depth) {
  RETURN_IF_ERROR(Expect('{'));
  if (Accept('}')) return absl::OkStatus();
  do {
    RETURN_IF_ERROR(ScanString(0, nullptr));
    RETURN_IF_ERROR(Expect(':'));
    RETURN_IF_ERROR(SkipValue(depth));
  } while (Accept(','));
  return Expect('}');
}

absl::Status JsonScanner::SkipArray(int depth) {
  RETURN_IF_ERROR(Expect('['));
  if (Accept(']')) return absl::OkStatus();
  do {
    RETURN_IF_ERROR(SkipValue(depth));
  } while (Accept(','));
  return Expect(']');
}

absl::Status JsonScanner::SkipValue(int depth) {
  if (depth == 0) return Error("nested too deeply");
  switch (Peek()) {
    case '{':
      return SkipObject(depth - 1);
    case '[':
      return SkipArray(depth - 1);
    case '"':
      return ScanString(0, nullptr);
    case 't':
      return SkipWord("true");
    case 'f':
      return SkipWord("false");
    case 'n':
      return SkipWord("null");
    default:
      return SkipNumber();
  }
}

}  // namespace tessera
