// The asking side of HTTP/1.1: for commands that call other servers.
#ifndef TESSERA_SERVER_HTTP_HTTP_CLIENT_H_
#define TESSERA_SERVER_HTTP_HTTP_CLIENT_H_

#include <atomic>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "server/http/http_message.h"

namespace tessera {

struct HttpUrl {
  std::string host;  // without brackets
  std::string port;
  std::string authority;  // host and port as in the URL
  std::string path;       // without the last slash; may be empty
};

// INVALID_ARGUMENT unless `url` is http://HOST[:PORT][/PATH]. TLS is for a proxy on this machine.
absl::StatusOr<HttpUrl> ParseHttpUrl(const std::string& url);

struct HttpCall {
  std::string method = "GET";
  std::string path;
  std::vector<HttpHeader> headers;
  std::string body;
  absl::Duration timeout = absl::InfiniteDuration();
  const std::atomic<bool>* cancelled = nullptr;  // polled; may be null
};

struct HttpAnswerHead {
  int status = 0;
  std::string date;  // the header; empty: none
};

// Thread-safe: every call has a connection of its own while it lasts, kept for later ones.
class HttpClient {
 public:
  // Gets the body in pieces, as they come, and an empty one at the end. An error ends the call.
  using BodyHandler = std::function<absl::Status(const HttpAnswerHead& head, std::string_view)>;

  explicit HttpClient(HttpUrl url);
  ~HttpClient();

  // Blocks until the end of the answer, whatever its status. UNAVAILABLE when nobody answers or the
  // connection is lost, DEADLINE_EXCEEDED, CANCELLED. Nothing is sent twice.
  absl::Status Call(const HttpCall& call, const BodyHandler& on_body);

  const HttpUrl& url() const { return url_; }

 private:
  class Connection;
  struct Free;

  const HttpUrl url_;
  std::unique_ptr<Free> free_;
};

}  // namespace tessera

#endif  // TESSERA_SERVER_HTTP_HTTP_CLIENT_H_
