// A fresh self-signed certificate for localhost, for the tests of TLS.
#ifndef TESSERA_TESTS_SERVER_ACCESS_TEST_CERTIFICATE_H_
#define TESSERA_TESTS_SERVER_ACCESS_TEST_CERTIFICATE_H_

#include <gtest/gtest.h>
#include <openssl/ec.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>

#include <filesystem>
#include <fstream>
#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "server/access/tls_identity.h"

namespace tessera {

struct TestCertificate {
  std::string certificate;  // PEM
  std::string key;
};

inline std::string PemOf(BIO* bio) {
  char* text = nullptr;
  const auto size = static_cast<size_t>(BIO_get_mem_data(bio, &text));
  std::string pem(text, size);
  BIO_free(bio);
  return pem;
}

// Valid from `begin` to `end`, in seconds from now.
inline TestCertificate MakeCertificate(int begin = -60, int end = 86'400) {
  const std::unique_ptr<EVP_PKEY, decltype(&EVP_PKEY_free)> key(EVP_EC_gen("P-256"),
                                                                &EVP_PKEY_free);
  const std::unique_ptr<X509, decltype(&X509_free)> made(X509_new(), &X509_free);
  static int64_t serial = 0;
  X509_set_version(made.get(), X509_VERSION_3);
  ASN1_INTEGER_set_int64(X509_get_serialNumber(made.get()), ++serial);
  X509_gmtime_adj(X509_getm_notBefore(made.get()), begin);
  X509_gmtime_adj(X509_getm_notAfter(made.get()), end);
  X509_set_pubkey(made.get(), key.get());
  X509_NAME* const name = X509_get_subject_name(made.get());
  X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_ASC,
                             reinterpret_cast<const unsigned char*>("localhost"), -1, -1, 0);
  X509_set_issuer_name(made.get(), name);
  X509_EXTENSION* const hosts =
      X509V3_EXT_conf_nid(nullptr, nullptr, NID_subject_alt_name, "DNS:localhost,IP:127.0.0.1");
  X509_add_ext(made.get(), hosts, -1);
  X509_EXTENSION_free(hosts);
  EXPECT_NE(X509_sign(made.get(), key.get(), EVP_sha256()), 0);
  BIO* const certificate_bio = BIO_new(BIO_s_mem());
  PEM_write_bio_X509(certificate_bio, made.get());
  BIO* const key_bio = BIO_new(BIO_s_mem());
  PEM_write_bio_PrivateKey(key_bio, key.get(), nullptr, nullptr, 0, nullptr, nullptr);
  return {.certificate = PemOf(certificate_bio), .key = PemOf(key_bio)};
}

// The files of a server in a folder of their own.
class TestTlsFiles {
 public:
  TestTlsFiles() : folder_(absl::StrCat(::testing::TempDir(), "tls.XXXXXX")) {
    EXPECT_NE(mkdtemp(folder_.data()), nullptr);
    Write(MakeCertificate());
  }
  ~TestTlsFiles() { std::filesystem::remove_all(folder_); }
  TestTlsFiles(const TestTlsFiles&) = delete;
  TestTlsFiles& operator=(const TestTlsFiles&) = delete;

  TlsFiles files() const {
    return {.certificate = {"--tls-cert", path("cert.pem")},
            .key = {"--tls-key", path("key.pem")},
            .authority = {"--tls-client-ca", ""}};
  }
  std::string path(const std::string& name) const { return absl::StrCat(folder_, "/", name); }
  void Write(const TestCertificate& made) const {
    WriteFile("key.pem", made.key);
    WriteFile("cert.pem", made.certificate);
  }
  void WriteFile(const std::string& name, const std::string& text) const {
    std::ofstream(path(name)) << text;
    std::filesystem::permissions(path(name), std::filesystem::perms(0600));
  }

 private:
  std::string folder_;
};

}  // namespace tessera

#endif  // TESSERA_TESTS_SERVER_ACCESS_TEST_CERTIFICATE_H_
