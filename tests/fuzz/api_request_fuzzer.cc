// The first byte chooses the route, the rest is a body. What is read has prompts within the limit;
// what is refused says why.
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <string_view>

#include "kernels/core/status_macros.h"
#include "server/http/openai/api_error.h"
#include "server/http/openai/api_request.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const std::string_view body(reinterpret_cast<const char*>(data + 1), size - 1);
  constexpr decltype(&tessera::ReadChatRequest) kRoutes[] = {
      tessera::ReadChatRequest, tessera::ReadCompletionRequest, tessera::ReadResponsesRequest,
      tessera::ReadMessagesRequest};
  const auto request = kRoutes[data[0] % std::size(kRoutes)](body);
  if (!request.ok()) {
    const tessera::HttpError error = tessera::ApiErrorOf(request.status(), {});
    TESSERA_CHECK(error.status == 400 && !error.message.empty());
    return 0;
  }
  const auto count = static_cast<int64_t>(request->prompts.size());
  TESSERA_CHECK(count >= 1 && count <= tessera::kMaxPrompts);
  return 0;
}
