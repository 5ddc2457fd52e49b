#include "server/access/tls_identity.h"

#include <arpa/inet.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <sys/stat.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <ctime>
#include <memory>

#include "absl/strings/str_cat.h"
#include "kernels/core/status_macros.h"
#include "kernels/core/text_file.h"

namespace tessera {
namespace {

constexpr int64_t kMaxPemBytes = 1 << 20;

using Bio = std::unique_ptr<BIO, decltype(&BIO_free)>;
using Certificate = std::unique_ptr<X509, decltype(&X509_free)>;
using Key = std::unique_ptr<EVP_PKEY, decltype(&EVP_PKEY_free)>;

Bio TextBio(const std::string& text) {
  return {BIO_new_mem_buf(text.data(), static_cast<int>(text.size())), &BIO_free};
}

absl::Status Wrong(const TlsFile& file, absl::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat(file.option, ": ", file.path, ": ", what));
}

absl::StatusOr<std::string> ReadPem(const TlsFile& file) {
  absl::StatusOr<std::string> text = ReadTextFile(file.path, kMaxPemBytes);
  if (text.ok()) return text;
  return absl::Status(text.status().code(),
                      absl::StrCat(file.option, ": ", text.status().message()));
}

// All of a file. After the last one OpenSSL finds no start line; everything else is damage.
absl::StatusOr<std::vector<Certificate>> Certificates(const TlsFile& file,
                                                      const std::string& text) {
  const Bio bio = TextBio(text);
  std::vector<Certificate> found;
  ERR_clear_error();
  while (X509* const next = PEM_read_bio_X509(bio.get(), nullptr, nullptr, nullptr)) {
    found.emplace_back(next, &X509_free);
  }
  const bool is_end = ERR_GET_REASON(ERR_peek_last_error()) == PEM_R_NO_START_LINE;
  ERR_clear_error();
  if (!is_end) return Wrong(file, "a certificate in it is truncated or damaged");
  if (found.empty()) return Wrong(file, "holds no certificate (PEM, BEGIN CERTIFICATE)");
  return found;
}

absl::Time TimeOf(const ASN1_TIME* time) {
  std::tm parts = {};
  if (ASN1_TIME_to_tm(time, &parts) != 1) return absl::InfinitePast();
  return absl::FromTimeT(timegm(&parts));
}

std::string Date(absl::Time time) {
  return absl::FormatTime("%Y-%m-%d %H:%M:%S UTC", time, absl::UTCTimeZone());
}

absl::Status CheckDates(const TlsFile& file, const X509& certificate, absl::Time now) {
  const absl::Time begin = TimeOf(X509_get0_notBefore(&certificate));
  const absl::Time end = TimeOf(X509_get0_notAfter(&certificate));
  if (now >= end) return Wrong(file, absl::StrCat("has expired on ", Date(end)));
  if (now < begin) {
    return Wrong(file, absl::StrCat("is not valid before ", Date(begin), "; check the clock"));
  }
  return absl::OkStatus();
}

std::string AddressText(const ASN1_OCTET_STRING* address) {
  std::array<char, INET6_ADDRSTRLEN> text = {};
  const int family = ASN1_STRING_length(address) == sizeof(in_addr) ? AF_INET : AF_INET6;
  if (family == AF_INET6 && ASN1_STRING_length(address) != sizeof(in6_addr)) return "";
  inet_ntop(family, ASN1_STRING_get0_data(address), text.data(), text.size());
  return text.data();
}

std::vector<std::string> HostsOf(const X509& certificate) {
  std::vector<std::string> hosts;
  const std::unique_ptr<GENERAL_NAMES, decltype(&GENERAL_NAMES_free)> names(
      static_cast<GENERAL_NAMES*>(
          X509_get_ext_d2i(&certificate, NID_subject_alt_name, nullptr, nullptr)),
      &GENERAL_NAMES_free);
  const int count = names == nullptr ? 0 : sk_GENERAL_NAME_num(names.get());
  for (int i = 0; i < count; ++i) {
    int type = 0;
    const void* const value = GENERAL_NAME_get0_value(sk_GENERAL_NAME_value(names.get(), i), &type);
    if (type == GEN_DNS) {
      const auto* const name = static_cast<const ASN1_IA5STRING*>(value);
      hosts.emplace_back(reinterpret_cast<const char*>(ASN1_STRING_get0_data(name)),
                         static_cast<size_t>(ASN1_STRING_length(name)));
    } else if (type == GEN_IPADD) {
      hosts.push_back(AddressText(static_cast<const ASN1_OCTET_STRING*>(value)));
    }
  }
  return hosts;
}

// Never asks anybody for a passphrase.
int NoPassphrase(char* /*buffer*/, int /*size*/, int /*writes*/, void* asked) {
  *static_cast<bool*>(asked) = true;
  return -1;
}

absl::StatusOr<Key> ParseKey(const TlsFile& file, const std::string& text) {
  bool is_encrypted = false;
  const Bio bio = TextBio(text);
  Key key(PEM_read_bio_PrivateKey(bio.get(), nullptr, &NoPassphrase, &is_encrypted),
          &EVP_PKEY_free);
  ERR_clear_error();
  if (key != nullptr) return key;
  if (is_encrypted) return Wrong(file, "is encrypted; the key must have no passphrase");
  return Wrong(file, "holds no private key (PEM, BEGIN PRIVATE KEY), or a damaged one");
}

bool IsReadableByAll(const std::string& path) {
  struct stat info = {};
  return stat(path.c_str(), &info) == 0 && (info.st_mode & S_IROTH) != 0;
}

absl::Status ReadOwn(const TlsFiles& files, absl::Time now, TlsIdentity* identity) {
  ASSIGN_OR_RETURN(identity->certificate, ReadPem(files.certificate));
  ASSIGN_OR_RETURN(identity->key, ReadPem(files.key));
  ASSIGN_OR_RETURN(const std::vector<Certificate> chain,
                   Certificates(files.certificate, identity->certificate));
  ASSIGN_OR_RETURN(const Key key, ParseKey(files.key, identity->key));
  X509& own = *chain.front();
  const bool is_pair = X509_check_private_key(&own, key.get()) == 1;
  ERR_clear_error();
  if (!is_pair) {
    return Wrong(files.key,
                 absl::StrCat("is not the key of the certificate in ", files.certificate.path));
  }
  for (const Certificate& certificate : chain) {
    RETURN_IF_ERROR(CheckDates(files.certificate, *certificate, now));
    identity->expiry = std::min(identity->expiry, TimeOf(X509_get0_notAfter(certificate.get())));
  }
  identity->hosts = HostsOf(own);
  if (X509_self_signed(&own, /*verify_signature=*/0) == 1) {
    identity->warnings.push_back(absl::StrCat(files.certificate.path,
                                              ": is self-signed: only who is given this very file "
                                              "as authority trusts it"));
  }
  if (IsReadableByAll(files.key.path)) {
    identity->warnings.push_back(
        absl::StrCat(files.key.path, ": everybody on this machine can read the key (chmod o-r)"));
  }
  return absl::OkStatus();
}

// A bundle may hold some that have expired.
absl::Status ReadAuthority(const TlsFile& file, absl::Time now, TlsIdentity* identity) {
  ASSIGN_OR_RETURN(identity->authority, ReadPem(file));
  ASSIGN_OR_RETURN(const std::vector<Certificate> all, Certificates(file, identity->authority));
  absl::Status first;
  for (const Certificate& certificate : all) {
    const absl::Status valid = CheckDates(file, *certificate, now);
    if (valid.ok()) return absl::OkStatus();
    first.Update(valid);
  }
  return first;
}

}  // namespace

absl::StatusOr<TlsIdentity> ReadTlsIdentity(const TlsFiles& files, absl::Time now) {
  TlsIdentity identity;
  if (files.certificate.path.empty() != files.key.path.empty()) {
    const bool no_key = files.key.path.empty();
    return absl::InvalidArgumentError(
        absl::StrCat(no_key ? files.key.option : files.certificate.option, ": is needed with ",
                     no_key ? files.certificate.option : files.key.option));
  }
  if (!files.certificate.path.empty()) RETURN_IF_ERROR(ReadOwn(files, now, &identity));
  if (!files.authority.path.empty()) {
    RETURN_IF_ERROR(ReadAuthority(files.authority, now, &identity));
  }
  return identity;
}

}  // namespace tessera
