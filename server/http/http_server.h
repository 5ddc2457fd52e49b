// An HTTP/1.1 listener: one thread that accepts, reads, writes and calls a handler.
#ifndef TESSERA_SERVER_HTTP_HTTP_SERVER_H_
#define TESSERA_SERVER_HTTP_HTTP_SERVER_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "server/http/http_exchange.h"
#include "server/http/request_reader.h"

namespace tessera {

class ServerTls;

struct HttpTimeouts {
  absl::Duration head = absl::Seconds(30);  // from the first byte of a request, or the connection
  absl::Duration body = absl::Seconds(60);
  absl::Duration idle = absl::Seconds(75);   // between two requests
  absl::Duration write = absl::Seconds(60);  // one piece to a client that does not read
};

struct HttpServerOptions {
  std::string option;  // the command line's name for the port, for error messages: "--http-port"
  std::string host = "127.0.0.1";
  int32_t port = 0;  // 0: a free one
  // When not empty: a Unix socket instead of host and port. What lies there must be a socket that
  // nobody listens on any more; it is replaced, and removed at the end.
  std::string unix_path;
  // One more: the connection that has been without a request for longest goes; when none is, the
  // new one is refused with 503.
  int32_t max_connections = 1024;
  // Bytes of all bodies that are being received; more are refused with 503.
  int64_t max_receiving_bytes = 128 << 20;
  ReadLimits limits;
  HttpTimeouts timeouts;
  // Asked when a head has come whose body has not: an answer refuses it and ends the connection.
  std::function<std::optional<HttpResponse>(const HttpRequest&)> refuse_head;  // may be empty
  // Outlives the server; nullptr: nothing is encrypted. Unix sockets never are.
  const ServerTls* tls = nullptr;
};

class HttpServer {
 public:
  // Listens and serves at once. UNAVAILABLE when the address is taken or means nothing here.
  static absl::StatusOr<std::unique_ptr<HttpServer>> Start(const HttpServerOptions& options,
                                                           HttpHandler handler);
  virtual ~HttpServer() = default;

  virtual int32_t port() const = 0;  // 0 for a Unix socket
  virtual std::string address() const = 0;
  virtual int32_t num_connections() const = 0;
  // Accepts nothing any more, closes connections without a request, lets the others finish until
  // the deadline and closes those, too. Returns when the thread has ended.
  virtual void Shutdown(absl::Duration timeout) = 0;
};

}  // namespace tessera

#endif  // TESSERA_SERVER_HTTP_HTTP_SERVER_H_
