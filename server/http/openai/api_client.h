// Asking a running server by OpenAI's API over HTTP: a TextGenerator for whatever speaks it.
#ifndef TESSERA_SERVER_HTTP_OPENAI_API_CLIENT_H_
#define TESSERA_SERVER_HTTP_OPENAI_API_CLIENT_H_

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "server/text_generator.h"

namespace tessera {

struct ApiClientOptions {
  std::string url;            // http://HOST:PORT, with a path if the API is not below /v1
  std::string model;          // empty: the first that /models lists
  std::string authorization;  // the header; empty: none is sent
  absl::Duration timeout = absl::InfiniteDuration();  // of one request
};

// INVALID_ARGUMENT unless `url` is http://HOST[:PORT][/PATH]. TLS is for a proxy on this machine.
absl::Status CheckApiUrl(const std::string& url);

// Asks for the model when none is given; UNAVAILABLE when nobody answers there.
//
// Requests of chat messages go to /chat/completions, others to /completions, both as streams. Of a
// request only prompt, temperature, max_tokens and ignore_eos are sent, and of an answer its text
// and its usage come back. Where the server does not tell usage with every chunk, a chunk with text
// counts as one token, until the last one tells better.
absl::StatusOr<std::unique_ptr<TextGenerator>> MakeApiClient(const ApiClientOptions& options);

}  // namespace tessera

#endif  // TESSERA_SERVER_HTTP_OPENAI_API_CLIENT_H_
