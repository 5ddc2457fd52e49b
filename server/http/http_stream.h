// The byte stream under an HTTP connection: TCP or Unix, as it is or within TLS.
#ifndef TESSERA_SERVER_HTTP_HTTP_STREAM_H_
#define TESSERA_SERVER_HTTP_HTTP_STREAM_H_

#include <boost/asio/buffer.hpp>
#include <boost/asio/generic/stream_protocol.hpp>
#include <boost/asio/ssl/context.hpp>
#include <boost/asio/ssl/stream.hpp>
#include <boost/asio/write.hpp>
#include <functional>
#include <memory>
#include <string_view>
#include <utility>

#include "absl/status/statusor.h"
#include "server/access/tls_identity.h"

namespace tessera {

using HttpSocket = boost::asio::generic::stream_protocol::socket;
using TlsContext = boost::asio::ssl::context;

// For connections that begin from now on.
absl::StatusOr<std::shared_ptr<TlsContext>> MakeTlsContext(const TlsIdentity& identity);

// Callers keep it until the handlers have run. At most one read and one write are under way. For
// one thread.
class HttpStream {
 public:
  // Without a context nothing is encrypted.
  HttpStream(HttpSocket socket, std::shared_ptr<TlsContext> context);

  bool is_encrypted() const { return tls_ != nullptr; }

  // `handler`(error_code). Before anything else, if is_encrypted().
  template <typename Handler>
  void AsyncHandshake(Handler&& handler) {
    tls_->async_handshake(boost::asio::ssl::stream_base::server, std::forward<Handler>(handler));
  }
  // `handler`(error_code, size_t).
  template <typename Handler>
  void AsyncReadSome(boost::asio::mutable_buffer buffer, Handler&& handler) {
    if (tls_ != nullptr && !bare_) {
      tls_->async_read_some(buffer, std::forward<Handler>(handler));
    } else {
      socket().async_read_some(buffer, std::forward<Handler>(handler));
    }
  }
  // All of it. `handler`(error_code, size_t).
  template <typename Handler>
  void AsyncWrite(boost::asio::const_buffer buffer, Handler&& handler) {
    if (tls_ != nullptr) {
      boost::asio::async_write(*tls_, buffer, std::forward<Handler>(handler));
    } else {
      boost::asio::async_write(socket(), buffer, std::forward<Handler>(handler));
    }
  }
  // For a few bytes when nothing is being written; without room for them they may be lost, and an
  // encrypted stream is of no use then.
  void TryWrite(std::string_view bytes);

  // Tells the peer that nothing follows; what is read afterwards is of no use but to see it end.
  // `handler`() runs when that can be read, at once or when the peer has heard of it.
  void AsyncEndSending(std::function<void()> handler);
  void Close();

 private:
  HttpSocket& socket() { return tls_ != nullptr ? tls_->next_layer() : socket_; }

  std::shared_ptr<TlsContext> context_;
  HttpSocket socket_;  // moved into tls_, where there is one
  std::unique_ptr<boost::asio::ssl::stream<HttpSocket>> tls_;
  bool bare_ = false;  // TLS has ended
};

}  // namespace tessera

#endif  // TESSERA_SERVER_HTTP_HTTP_STREAM_H_
