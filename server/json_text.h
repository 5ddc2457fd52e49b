// Pieces of JSON text, appended to a string.
#ifndef TESSERA_SERVER_JSON_TEXT_H_
#define TESSERA_SERVER_JSON_TEXT_H_

#include <string>
#include <string_view>

namespace tessera {

// Appends `text` in quotes. Valid UTF-8 stays as it is; other bytes become U+FFFD.
void AppendJsonQuoted(std::string_view text, std::string* json);
std::string JsonQuoted(std::string_view text);

}  // namespace tessera

#endif  // TESSERA_SERVER_JSON_TEXT_H_
