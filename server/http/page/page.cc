#include "server/http/page/page.h"

#include <openssl/sha.h>

#include <array>
#include <string>
#include <string_view>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "kernels/core/status_macros.h"

namespace tessera {

// Written by embed.cmake.
extern const char kPageText[];

namespace {

// The policy's name for what stands between <tag> and </tag>.
std::string SourceOf(std::string_view page, std::string_view tag) {
  const std::string open = absl::StrCat("<", std::string(tag), ">");
  const std::string close = absl::StrCat("</", std::string(tag), ">");
  const size_t begin = page.find(open);
  const size_t end = page.rfind(close);
  TESSERA_CHECK(begin != std::string_view::npos && end != std::string_view::npos);
  const std::string_view text = page.substr(begin + open.size(), end - begin - open.size());
  std::array<unsigned char, SHA256_DIGEST_LENGTH> hash{};
  SHA256(reinterpret_cast<const unsigned char*>(text.data()), text.size(), hash.data());
  return absl::StrCat("'sha256-", absl::Base64Escape(std::string(hash.begin(), hash.end())), "'");
}

}  // namespace

HttpResponse PageResponse() {
  static const std::string policy = absl::StrCat(
      "default-src 'none'; script-src ", SourceOf(kPageText, "script"), "; style-src ",
      SourceOf(kPageText, "style"),
      "; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'");
  return {.content_type = "text/html; charset=utf-8",
          .body = kPageText,
          .headers = {{"Content-Security-Policy", policy},
                      {"X-Content-Type-Options", "nosniff"},
                      {"Referrer-Policy", "no-referrer"},
                      {"Cache-Control", "no-cache"}}};
}

}  // namespace tessera
