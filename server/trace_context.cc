#include "server/trace_context.h"

#include <algorithm>

namespace tessera {
namespace {

// version "-" trace-id "-" parent-id "-" flags (W3C Trace Context, section 3.2.2).
constexpr size_t kTraceIdAt = 3;
constexpr size_t kTraceIdLength = 32;
constexpr size_t kParentIdAt = 36;
constexpr size_t kParentIdLength = 16;
constexpr size_t kFlagsAt = 53;
constexpr size_t kLength = 55;

// Lower-case hexadecimal.
bool IsHex(std::string_view text) {
  return std::all_of(text.begin(), text.end(),
                     [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); });
}

// Hexadecimal and not all zeros.
bool IsId(std::string_view text) {
  return IsHex(text) && text.find_first_not_of('0') != std::string_view::npos;
}

}  // namespace

std::string_view TraceIdOf(std::string_view header) {
  if (header.size() < kLength) return {};
  const std::string_view version = header.substr(0, 2);
  // Later versions may append fields, version 00 may not.
  const bool ends_well = header.size() == kLength || (version != "00" && header[kLength] == '-');
  const bool has_dashes = header[kTraceIdAt - 1] == '-' && header[kParentIdAt - 1] == '-' &&
                          header[kFlagsAt - 1] == '-';
  const std::string_view trace_id = header.substr(kTraceIdAt, kTraceIdLength);
  const bool is_valid = ends_well && has_dashes && IsHex(version) && version != "ff" &&
                        IsId(trace_id) && IsId(header.substr(kParentIdAt, kParentIdLength)) &&
                        IsHex(header.substr(kFlagsAt, 2));
  return is_valid ? trace_id : std::string_view();
}

}  // namespace tessera
