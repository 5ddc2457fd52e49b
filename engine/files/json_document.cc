#include "engine/files/json_document.h"

#include <algorithm>
#include <string>

#include "absl/status/status.h"
#include "engine/files/message.h"

namespace tessera {
namespace {

constexpr size_t kSafeDigits = 18;  // always fit 64 bits
constexpr size_t kLeastCapacity = 64;

bool IsDigit(char byte) { return byte >= '0' && byte <= '9'; }

// The end of the string that begins with the quotation mark at `begin`.
size_t EndOfString(std::string_view text, size_t begin) {
  size_t at = begin + 1;
  while (at < text.size() && text[at] != '"') at += text[at] == '\\' ? 2 : 1;
  return std::min(at + 1, text.size());
}

// The same text with an exponent of zero behind integers of many digits, which makes doubles of
// them.
std::string WithLongIntegersAsDoubles(std::string_view text) {
  std::string changed;
  for (size_t at = 0; at < text.size();) {
    const size_t begin = at;
    if (text[at] == '"') {
      at = EndOfString(text, at);
    } else if (IsDigit(text[at])) {
      while (at < text.size() && IsDigit(text[at])) ++at;
    } else {
      ++at;
    }
    changed.append(text.substr(begin, at - begin));
    // Behind a point or an exponent the number is a double already.
    const bool is_long = IsDigit(text[begin]) && at - begin > kSafeDigits;
    const bool is_part =
        begin > 0 && std::string_view(".eE+").find(text[begin - 1]) != std::string_view::npos;
    const bool goes_on =
        at < text.size() && std::string_view(".eE").find(text[at]) != std::string_view::npos;
    if (is_long && !is_part && !goes_on) changed.append("e0");
  }
  return changed;
}

}  // namespace

simdjson::error_code JsonDocument::Read(std::string_view text) {
  const auto error = parser_->allocate(std::max(text.size(), kLeastCapacity), kMaxDepth);
  if (error != simdjson::SUCCESS) return error;
  return parser_->parse(text.data(), text.size()).get(root_);
}

absl::StatusOr<JsonDocument> JsonDocument::Parse(std::string_view text) {
  constexpr std::string_view kByteOrderMark = "\xEF\xBB\xBF";
  if (text.starts_with(kByteOrderMark)) text.remove_prefix(kByteOrderMark.size());
  JsonDocument document;
  simdjson::error_code error = document.Read(text);
  if (error == simdjson::NUMBER_ERROR) error = document.Read(WithLongIntegersAsDoubles(text));
  if (error == simdjson::SUCCESS) return document;
  return absl::InvalidArgumentError(
      Message("not valid JSON (", simdjson::error_message(error), ")"));
}

}  // namespace tessera
