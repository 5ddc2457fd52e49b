// The first byte chooses the length of pieces; the rest are bytes of a connection. Pieces must give
// the same requests and the same refusal as the whole, within the limits.
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/core/status_macros.h"
#include "server/http/request_reader.h"

namespace {

constexpr tessera::ReadLimits kLimits = {
    .head = {.target_bytes = 256, .fields = 10}, .header_bytes = 1024, .body_bytes = 512};

struct Read {
  std::vector<std::string> requests;
  int refused = 0;
};

std::string Shown(const tessera::HttpRequest& request) {
  std::string text = request.method + " " + request.path + "?" + request.query;
  for (const auto& header : request.headers) text += "\n" + header.name + ":" + header.value;
  return text + "\n\n" + request.body;
}

Read ReadAll(std::string_view bytes, size_t piece) {
  using State = tessera::RequestReader::State;
  Read read;
  tessera::RequestReader reader(kLimits);
  std::string pending;
  for (size_t at = 0; at < bytes.size(); at += piece) {
    pending += bytes.substr(at, piece);
    while (reader.Advance(&pending) == State::kDone) {
      const tessera::HttpRequest request = reader.TakeRequest();
      TESSERA_CHECK(request.body.size() <= kLimits.body_bytes);
      TESSERA_CHECK(request.headers.size() <= kLimits.head.fields);
      TESSERA_CHECK(request.path.size() + request.query.size() <= kLimits.head.target_bytes);
      read.requests.push_back(Shown(request));
    }
    if (reader.state() != State::kRefused) continue;
    read.refused = reader.refusal().status;
    TESSERA_CHECK(read.refused >= 400 && !reader.keep_alive());
    break;
  }
  return read;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const std::string_view bytes(reinterpret_cast<const char*>(data + 1), size - 1);
  const Read whole = ReadAll(bytes, bytes.size() + 1);
  const Read pieces = ReadAll(bytes, 1 + data[0] % 16);
  // Beast counts the size of a chunk again whenever it begins to read its extension again.
  if ((whole.refused == 413) != (pieces.refused == 413)) return 0;
  TESSERA_CHECK(whole.requests == pieces.requests);
  TESSERA_CHECK((whole.refused == 0) == (pieces.refused == 0));
  return 0;
}
