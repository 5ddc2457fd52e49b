#include "server/http/http_stream.h"

#include <openssl/err.h>
#include <openssl/ssl.h>

#include "absl/strings/str_cat.h"

namespace tessera {
namespace {

namespace asio = boost::asio;
using boost::system::error_code;

// Clients that name protocols get HTTP/1.1, or none when they do not know it.
int SelectProtocol(SSL* /*session*/, const unsigned char** chosen, unsigned char* chosen_size,
                   const unsigned char* offered, unsigned int offered_size, void* /*unused*/) {
  constexpr std::string_view kWanted = "http/1.1";
  for (unsigned int at = 0; at < offered_size; at += 1U + offered[at]) {
    const std::string_view name(reinterpret_cast<const char*>(offered + at + 1), offered[at]);
    if (name != kWanted) continue;
    *chosen = offered + at + 1;
    *chosen_size = offered[at];
    return SSL_TLSEXT_ERR_OK;
  }
  return SSL_TLSEXT_ERR_NOACK;
}

}  // namespace

absl::StatusOr<std::shared_ptr<TlsContext>> MakeTlsContext(const TlsIdentity& identity) {
  const auto context = std::make_shared<TlsContext>(TlsContext::tls_server);
  error_code error;
  context->set_options(TlsContext::default_workarounds | TlsContext::no_tlsv1 |
                           TlsContext::no_tlsv1_1 | TlsContext::no_compression |
                           SSL_OP_NO_RENEGOTIATION,
                       error);
  if (!error) context->use_certificate_chain(asio::buffer(identity.certificate), error);
  if (!error) context->use_private_key(asio::buffer(identity.key), TlsContext::pem, error);
  if (!error && !identity.authority.empty()) {
    context->add_certificate_authority(asio::buffer(identity.authority), error);
    if (!error) {
      context->set_verify_mode(asio::ssl::verify_peer | asio::ssl::verify_fail_if_no_peer_cert,
                               error);
    }
    // Without a name for the sessions OpenSSL resumes none of clients with certificates.
    constexpr unsigned char kName[] = "tessera";
    SSL_CTX_set_session_id_context(context->native_handle(), kName, sizeof(kName));
  }
  SSL_CTX_set_alpn_select_cb(context->native_handle(), &SelectProtocol, nullptr);
  ERR_clear_error();
  if (error) return absl::InvalidArgumentError(absl::StrCat("TLS: ", error.message()));
  return context;
}

HttpStream::HttpStream(HttpSocket socket, std::shared_ptr<TlsContext> context)
    : context_(std::move(context)), socket_(std::move(socket)) {
  if (context_ != nullptr) {
    tls_ = std::make_unique<asio::ssl::stream<HttpSocket>>(std::move(socket_), *context_);
  }
}

void HttpStream::TryWrite(std::string_view bytes) {
  error_code ignored;
  socket().non_blocking(true, ignored);
  if (tls_ != nullptr) {
    tls_->write_some(asio::buffer(bytes), ignored);
  } else {
    socket().write_some(asio::buffer(bytes), ignored);
  }
}

void HttpStream::AsyncEndSending(std::function<void()> handler) {
  const auto end = [this](const std::function<void()>& then) {
    error_code ignored;
    socket().shutdown(HttpSocket::shutdown_send, ignored);
    bare_ = true;
    then();
  };
  if (tls_ == nullptr) return end(handler);
  tls_->async_shutdown(
      [end, then = std::move(handler)](error_code /*the end all the same*/) { end(then); });
}

void HttpStream::Close() {
  error_code ignored;
  socket().close(ignored);
}

}  // namespace tessera
