#include "parallel/cluster/credentials.h"

#include <grpcpp/security/credentials.h>
#include <grpcpp/security/server_credentials.h>

#include "absl/strings/str_cat.h"
#include "kernels/core/status_macros.h"
#include "kernels/core/text_file.h"

namespace tessera {
namespace {

constexpr int64_t kMaxPemBytes = 1 << 20;

struct Pem {
  std::string ca, certificate, key;
};

absl::StatusOr<std::string> ReadPem(const char* what, const std::string& path) {
  absl::StatusOr<std::string> text = ReadTextFile(path, kMaxPemBytes);
  if (text.ok() && !text->empty()) return text;
  return absl::NotFoundError(
      absl::StrCat("cannot read the cluster TLS ", what, " '", path, "'",
                   text.ok() ? ": is empty" : absl::StrCat(" (", text.status().message(), ")"),
                   "; CA, certificate and key are needed together"));
}

absl::StatusOr<Pem> ReadAll(const ClusterTlsFiles& files) {
  Pem pem;
  ASSIGN_OR_RETURN(pem.ca, ReadPem("CA", files.ca));
  ASSIGN_OR_RETURN(pem.certificate, ReadPem("certificate", files.certificate));
  ASSIGN_OR_RETURN(pem.key, ReadPem("key", files.key));
  return pem;
}

}  // namespace

absl::StatusOr<std::shared_ptr<grpc::ServerCredentials>> HeadCredentials(
    const ClusterTlsFiles& files) {
  if (files.empty()) return grpc::InsecureServerCredentials();
  ASSIGN_OR_RETURN(const Pem pem, ReadAll(files));
  grpc::SslServerCredentialsOptions options(
      GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY);
  options.pem_root_certs = pem.ca;
  options.pem_key_cert_pairs.push_back({pem.key, pem.certificate});
  return grpc::SslServerCredentials(options);
}

absl::StatusOr<std::shared_ptr<grpc::ChannelCredentials>> NodeCredentials(
    const ClusterTlsFiles& files) {
  if (files.empty()) return grpc::InsecureChannelCredentials();
  ASSIGN_OR_RETURN(const Pem pem, ReadAll(files));
  return grpc::SslCredentials(
      {.pem_root_certs = pem.ca, .pem_private_key = pem.key, .pem_cert_chain = pem.certificate});
}

}  // namespace tessera
