// One line of a batch: what it asks for.
#ifndef TESSERA_SERVER_BATCH_BATCH_LINE_H_
#define TESSERA_SERVER_BATCH_BATCH_LINE_H_

#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "engine/text/jinja/value.h"
#include "server/http/openai/api_request.h"

namespace tessera {

struct BatchRequest {
  std::string custom_id;  // the client's; "line-N" where it gave none
  ApiKind kind = ApiKind::kChat;
  std::string body;  // the JSON object of the route
};

// A line in one of these forms; `defaults` are members of every body that does not have them.
//   {"custom_id": …, "method": "POST", "url": "/v1/chat/completions", "body": {…}}
//   {"messages": […], …}  or  {"prompt": …, …}   the body itself; custom_id may stand in it
//   [{"role": "user", "content": …}, …]          messages
//   "text"                                       what a user says
// INVALID_ARGUMENT says what is wrong with it; where the line has a custom_id, `*custom_id` is set
// all the same.
absl::StatusOr<BatchRequest> ReadBatchLine(std::string_view text, int64_t number,
                                           const jinja::Dict& defaults, std::string* custom_id);

}  // namespace tessera

#endif  // TESSERA_SERVER_BATCH_BATCH_LINE_H_
