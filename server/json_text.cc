#include "server/json_text.h"

#include "engine/text/utf8.h"

namespace tessera {
namespace {

constexpr std::string_view kReplacement = "\xEF\xBF\xBD";

void AppendAscii(char c, std::string* json) {
  switch (c) {
    case '"':
      json->append("\\\"");
      return;
    case '\\':
      json->append("\\\\");
      return;
    case '\n':
      json->append("\\n");
      return;
    case '\r':
      json->append("\\r");
      return;
    case '\t':
      json->append("\\t");
      return;
    default:
      break;
  }
  if (static_cast<unsigned char>(c) >= 0x20) {
    json->push_back(c);
    return;
  }
  constexpr std::string_view kHex = "0123456789abcdef";
  json->append("\\u00");
  json->push_back(kHex[static_cast<unsigned char>(c) >> 4]);
  json->push_back(kHex[static_cast<unsigned char>(c) & 0xF]);
}

}  // namespace

void AppendJsonQuoted(std::string_view text, std::string* json) {
  json->push_back('"');
  while (!text.empty()) {
    if (static_cast<unsigned char>(text.front()) < 0x80) {
      AppendAscii(text.front(), json);
      text.remove_prefix(1);
      continue;
    }
    const Utf8Unit unit = NextUtf8Unit(text);
    json->append(unit.kind == Utf8Unit::Kind::kCharacter ? text.substr(0, unit.length)
                                                         : kReplacement);
    text.remove_prefix(unit.length);
  }
  json->push_back('"');
}

std::string JsonQuoted(std::string_view text) {
  std::string json;
  json.reserve(text.size() + 2);
  AppendJsonQuoted(text, &json);
  return json;
}

}  // namespace tessera
