// A finished answer as the JSON that generate and client print.
#ifndef TESSERA_SERVER_COMMANDS_RESPONSE_JSON_H_
#define TESSERA_SERVER_COMMANDS_RESPONSE_JSON_H_

#include <cstdint>
#include <span>
#include <string>

#include "tessera/v1/inference.pb.h"

namespace tessera {

// {"text", "reasoning", "token_ids", "finish_reason", "usage", …}; with several choices also
// "choices", where each has these members. One line.
std::string ResponseJson(const v1::GenerateResponse& response);

// The answer for people: reasoning between tags, then the text.
std::string ResponseText(const v1::GenerateResponse& response);

// "[1, 2, 3]"
std::string IdsJson(std::span<const int32_t> ids);
// "[0.5, -1e-07]", enough digits to read the same floats back.
std::string FloatsJson(std::span<const float> values);
std::string TextJson(const std::string& text);

}  // namespace tessera

#endif  // TESSERA_SERVER_COMMANDS_RESPONSE_JSON_H_
