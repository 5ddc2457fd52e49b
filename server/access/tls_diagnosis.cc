#include "server/access/tls_diagnosis.h"

#include <netdb.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <sys/socket.h>
#include <unistd.h>

#include <memory>

#include "absl/strings/str_cat.h"

namespace tessera {
namespace {

constexpr timeval kWait = {.tv_sec = 3, .tv_usec = 0};

using Context = std::unique_ptr<SSL_CTX, decltype(&SSL_CTX_free)>;
using Session = std::unique_ptr<SSL, decltype(&SSL_free)>;
using Bio = std::unique_ptr<BIO, decltype(&BIO_free)>;

class Connection {
 public:
  Connection(const std::string& host, int port) {
    const addrinfo wanted = {.ai_flags = AI_NUMERICSERV, .ai_socktype = SOCK_STREAM};
    addrinfo* found = nullptr;
    if (getaddrinfo(host.c_str(), absl::StrCat(port).c_str(), &wanted, &found) != 0) return;
    const std::unique_ptr<addrinfo, decltype(&freeaddrinfo)> addresses(found, &freeaddrinfo);
    for (const addrinfo* each = found; each != nullptr && file_ < 0; each = each->ai_next) {
      file_ = Connect(*each);
    }
  }
  ~Connection() {
    if (file_ >= 0) close(file_);
  }
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;

  bool is_open() const { return file_ >= 0; }
  int file() const { return file_; }

 private:
  // -1: nobody there.
  static int Connect(const addrinfo& address) {
    const int file = socket(address.ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    for (const int limit : {SO_RCVTIMEO, SO_SNDTIMEO}) {
      setsockopt(file, SOL_SOCKET, limit, &kWait, sizeof(kWait));
    }
    if (file < 0 || connect(file, address.ai_addr, address.ai_addrlen) == 0) return file;
    close(file);
    return -1;
  }

  int file_ = -1;
};

Bio TextBio(const std::string& text) {
  return {BIO_new_mem_buf(text.data(), static_cast<int>(text.size())), &BIO_free};
}

// The texts have been checked before.
void Trust(SSL_CTX* context, const std::string& authority) {
  if (authority.empty()) {
    SSL_CTX_set_default_verify_paths(context);
    return;
  }
  const Bio bio = TextBio(authority);
  while (X509* const next = PEM_read_bio_X509(bio.get(), nullptr, nullptr, nullptr)) {
    X509_STORE_add_cert(SSL_CTX_get_cert_store(context), next);
    X509_free(next);
  }
}

void Show(SSL_CTX* context, const TlsIdentity& identity) {
  if (identity.certificate.empty()) return;
  const Bio certificates = TextBio(identity.certificate);
  const Bio keys = TextBio(identity.key);
  X509* const own = PEM_read_bio_X509(certificates.get(), nullptr, nullptr, nullptr);
  EVP_PKEY* const key = PEM_read_bio_PrivateKey(keys.get(), nullptr, nullptr, nullptr);
  SSL_CTX_use_certificate(context, own);
  SSL_CTX_use_PrivateKey(context, key);
  X509_free(own);
  EVP_PKEY_free(key);
}

std::string LastError() {
  const char* const reason = ERR_reason_error_string(ERR_peek_last_error());
  return reason == nullptr ? "the connection was closed" : reason;
}

std::string CertificateTrouble(const TlsAttempt& attempt, long verdict) {  // NOLINT: OpenSSL's type
  const std::string what = absl::StrCat("the server's certificate is not accepted: ",
                                        X509_verify_cert_error_string(verdict));
  switch (verdict) {
    case X509_V_ERR_DEPTH_ZERO_SELF_SIGNED_CERT:
    case X509_V_ERR_SELF_SIGNED_CERT_IN_CHAIN:
    case X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY:
    case X509_V_ERR_UNABLE_TO_VERIFY_LEAF_SIGNATURE:
      return absl::StrCat(what, "; --ca must name the certificate of who signed it");
    case X509_V_ERR_HOSTNAME_MISMATCH:
    case X509_V_ERR_IP_ADDRESS_MISMATCH:
      return absl::StrCat(what, "; it does not name ", attempt.host);
    default:
      return what;
  }
}

// TLS 1.3 servers look at the client's certificate after the handshake, and not all say what they
// found before they hang up.
std::string AfterHandshake(SSL* session, const TlsAttempt& attempt) {
  const unsigned char* protocol = nullptr;
  unsigned int protocol_size = 0;
  SSL_get0_alpn_selected(session, &protocol, &protocol_size);
  if (protocol_size == 0) return "what answers there is no gRPC server";
  char first = 0;
  const int count = SSL_read(session, &first, 1);
  if (count > 0 || SSL_get_error(session, count) == SSL_ERROR_WANT_READ) return "";
  return attempt.identity.certificate.empty()
             ? "the server hangs up, as one does that wants a certificate of the client (--cert "
               "and --key)"
             : "the server hangs up, as one does that does not accept the certificate of --cert";
}

}  // namespace

std::string ExplainTlsFailure(const TlsAttempt& attempt) {
  const Connection connection(attempt.host, attempt.port);
  if (!connection.is_open()) return "";
  const Context context(SSL_CTX_new(TLS_client_method()), &SSL_CTX_free);
  Trust(context.get(), attempt.identity.authority);
  Show(context.get(), attempt.identity);
  const Session session(SSL_new(context.get()), &SSL_free);
  SSL_set_fd(session.get(), connection.file());
  SSL_set_verify(session.get(), attempt.used_tls ? SSL_VERIFY_PEER : SSL_VERIFY_NONE, nullptr);
  SSL_set_tlsext_host_name(session.get(), attempt.host.c_str());
  X509_VERIFY_PARAM* const wanted = SSL_get0_param(session.get());
  if (X509_VERIFY_PARAM_set1_ip_asc(wanted, attempt.host.c_str()) != 1) {
    X509_VERIFY_PARAM_set1_host(wanted, attempt.host.c_str(), attempt.host.size());
  }
  // As gRPC does: servers refuse other protocols.
  constexpr unsigned char kProtocols[] = {2, 'h', '2'};
  SSL_set_alpn_protos(session.get(), kProtocols, sizeof(kProtocols));
  ERR_clear_error();
  const bool connected = SSL_connect(session.get()) == 1;
  std::string why;
  if (!attempt.used_tls) {
    if (connected) why = "the server speaks TLS (--ca, or --tls to trust the system's authorities)";
  } else if (connected) {
    why = AfterHandshake(session.get(), attempt);
  } else if (const auto verdict = SSL_get_verify_result(session.get()); verdict != X509_V_OK) {
    why = CertificateTrouble(attempt, verdict);
  } else if (ERR_GET_REASON(ERR_peek_last_error()) == SSL_R_WRONG_VERSION_NUMBER) {
    why = "the server does not speak TLS there (leave out --tls, --ca, --cert and --key)";
  } else {
    why = absl::StrCat("TLS fails: ", LastError());
  }
  ERR_clear_error();
  return why;
}

}  // namespace tessera
