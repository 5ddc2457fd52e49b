#include "engine/text/byte_alphabet.h"

#include "engine/text/utf8.h"

namespace tessera {

ByteAlphabet::ByteAlphabet() {
  byte_of_.fill(-1);
  char32_t next = 0x100;
  for (size_t byte = 0; byte < spelling_.size(); ++byte) {
    const bool printable = (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xAC) ||
                           (byte >= 0xAE && byte <= 0xFF);
    const char32_t code_point = printable ? static_cast<char32_t>(byte) : next++;
    AppendUtf8(code_point, &spelling_[byte]);
    byte_of_[code_point] = static_cast<int16_t>(byte);
  }
}

void ByteAlphabet::AppendBytes(std::string_view token, std::string* bytes) const {
  const size_t start = bytes->size();
  for (std::string_view rest = token; !rest.empty();) {
    const size_t length = NextUtf8Unit(rest).length;
    const char32_t code_point = DecodeUtf8Character(rest.substr(0, length));
    if (code_point >= kEnd || byte_of_[code_point] < 0) {
      bytes->resize(start);
      bytes->append(token);
      return;
    }
    bytes->push_back(static_cast<char>(byte_of_[code_point]));
    rest.remove_prefix(length);
  }
}

}  // namespace tessera
