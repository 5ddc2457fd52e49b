#include "engine/text/utf8_stream.h"

#include <utility>

#include "engine/text/utf8.h"

namespace tessera {

void AppendRepairedUtf8(std::string_view bytes, std::string* text) {
  Utf8Stream stream;
  stream.Push(bytes, text);
  stream.Finish(text);
}

void Utf8Stream::Push(std::string_view bytes, std::string* text) {
  std::string joined;
  if (!pending_.empty()) {
    joined = std::move(pending_);
    joined.append(bytes);
    bytes = joined;
    pending_.clear();
  }
  while (!bytes.empty()) {
    const size_t ascii = AsciiPrefixLength(bytes);
    text->append(bytes.substr(0, ascii));
    bytes.remove_prefix(ascii);
    if (bytes.empty()) return;
    const Utf8Unit unit = NextUtf8Unit(bytes);
    switch (unit.kind) {
      case Utf8Unit::Kind::kCharacter:
        text->append(bytes.substr(0, unit.length));
        break;
      case Utf8Unit::Kind::kInvalid:
        text->append(kReplacementCharacter);
        break;
      case Utf8Unit::Kind::kIncomplete:
        pending_.assign(bytes);
        return;
    }
    bytes.remove_prefix(unit.length);
  }
}

void Utf8Stream::Finish(std::string* text) {
  if (!pending_.empty()) text->append(kReplacementCharacter);
  pending_.clear();
}

}  // namespace tessera
