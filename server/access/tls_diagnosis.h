// Why a client cannot connect by TLS, in words.
#ifndef TESSERA_SERVER_ACCESS_TLS_DIAGNOSIS_H_
#define TESSERA_SERVER_ACCESS_TLS_DIAGNOSIS_H_

#include <string>

#include "server/access/tls_identity.h"

namespace tessera {

struct TlsAttempt {
  std::string host;  // without brackets
  int port = 0;
  // False: the client spoke plaintext, and the question is whether TLS would have been right.
  bool used_tls = false;
  TlsIdentity identity;  // of the client; without authority it trusts the system's
};

// Connects once more, by OpenSSL alone, and says what goes wrong; empty when it cannot tell. Blocks
// for some seconds at most.
std::string ExplainTlsFailure(const TlsAttempt& attempt);

}  // namespace tessera

#endif  // TESSERA_SERVER_ACCESS_TLS_DIAGNOSIS_H_
