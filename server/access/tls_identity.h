// Certificates and keys from PEM files, checked before anything uses them.
#ifndef TESSERA_SERVER_ACCESS_TLS_IDENTITY_H_
#define TESSERA_SERVER_ACCESS_TLS_IDENTITY_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace tessera {

struct TlsFile {
  std::string option;  // the command line's name for it, for error messages: "--tls-cert"
  std::string path;    // empty: none
};

struct TlsFiles {
  TlsFile certificate;  // one's own, followed by those that lead to the authority
  TlsFile key;          // of the first certificate
  TlsFile authority;    // who signs the peers' certificates
  bool empty() const {
    return certificate.path.empty() && key.path.empty() && authority.path.empty();
  }
};

// PEM texts; empty where there is no file.
struct TlsIdentity {
  std::string certificate;
  std::string key;
  std::string authority;
  absl::Time expiry = absl::InfiniteFuture();  // of the certificate that expires first
  std::vector<std::string> hosts;              // what the first certificate is valid for
  std::vector<std::string> warnings;           // what works, but not as well as it should
};

// Reads and checks what the files hold. Errors name option, file and reason: a file that cannot be
// read or holds no PEM, a certificate that has expired or is not valid yet, a key that is encrypted
// or belongs to another certificate, a certificate without key or the reverse.
absl::StatusOr<TlsIdentity> ReadTlsIdentity(const TlsFiles& files, absl::Time now);

}  // namespace tessera

#endif  // TESSERA_SERVER_ACCESS_TLS_IDENTITY_H_
