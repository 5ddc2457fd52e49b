#include "server/http/request_head.h"

#include <algorithm>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

namespace tessera {
namespace {

constexpr std::string_view kLineEnd = "\r\n";
constexpr size_t kMaxMethodBytes = 32;
constexpr size_t kMaxLengthDigits = 18;

std::optional<HttpRefusal> Refuse(std::string message, int status = 400) {
  return HttpRefusal{status, std::move(message)};
}

// RFC 9110, section 5.6.2.
bool IsToken(std::string_view text) {
  constexpr std::string_view kMarks = "!#$%&'*+-.^_`|~";
  return !text.empty() && std::all_of(text.begin(), text.end(), [&](char c) {
    return absl::ascii_isalnum(static_cast<unsigned char>(c)) ||
           kMarks.find(c) != std::string_view::npos;
  });
}

bool EqualsIgnoringCase(std::string_view a, std::string_view b) {
  return absl::EqualsIgnoreCase({a.data(), a.size()}, {b.data(), b.size()});
}

bool HasControlCharacters(std::string_view line) {
  return std::any_of(line.begin(), line.end(), [](char c) {
    const auto byte = static_cast<unsigned char>(c);
    return (byte < 0x20 && c != '\t') || byte == 0x7F;
  });
}

// The next line without its end; `rest` goes on behind it. Empty text when there is no CR LF.
std::string_view NextLine(std::string_view* rest) {
  const size_t end = std::min(rest->find(kLineEnd), rest->size());
  const std::string_view line = rest->substr(0, end);
  rest->remove_prefix(std::min(end + kLineEnd.size(), rest->size()));
  return line;
}

std::optional<HttpRefusal> ReadTarget(std::string_view target, HttpRequest* request) {
  for (const std::string_view scheme : {"http://", "https://"}) {
    if (!EqualsIgnoringCase(target.substr(0, scheme.size()), scheme)) continue;
    const size_t path = target.find('/', scheme.size());
    target = path == std::string_view::npos ? "/" : target.substr(path);
    break;
  }
  const bool is_usable = target.starts_with('/') || target == "*";
  if (!is_usable) return Refuse("the request target must be a path");
  const size_t query = target.find('?');
  request->path = std::string(target.substr(0, query));
  request->query = query == std::string_view::npos ? "" : std::string(target.substr(query + 1));
  return std::nullopt;
}

std::optional<HttpRefusal> ReadRequestLine(std::string_view line, const HeadLimits& limits,
                                           HttpRequest* request) {
  const size_t first = line.find(' ');
  const size_t last = line.rfind(' ');
  if (first == std::string_view::npos || first == last) {
    return Refuse("the request line must be a method, a target and a version");
  }
  const std::string_view method = line.substr(0, first);
  const std::string_view target = line.substr(first + 1, last - first - 1);
  const std::string_view version = line.substr(last + 1);
  if (!IsToken(method) || method.size() > kMaxMethodBytes) return Refuse("not an HTTP method");
  if (target.size() > limits.target_bytes) {
    return Refuse(absl::StrCat("the request target has ", target.size(), " bytes; at most ",
                               limits.target_bytes, " are allowed"),
                  414);
  }
  if (target.empty() || target.find_first_of(" \t") != std::string_view::npos) {
    return Refuse("the request target must be one word");
  }
  request->is_http_1_0 = version == "HTTP/1.0";
  if (version != "HTTP/1.1" && version != "HTTP/1.0") {
    const bool is_other = version.size() == 8 && version.starts_with("HTTP/") &&
                          absl::ascii_isdigit(static_cast<unsigned char>(version[5]));
    return Refuse("this server speaks HTTP/1.1 and HTTP/1.0", is_other ? 505 : 400);
  }
  request->method = std::string(method);
  return ReadTarget(target, request);
}

std::optional<HttpRefusal> ReadField(std::string_view line, HttpRequest* request) {
  if (line.front() == ' ' || line.front() == '\t') return Refuse("folded header lines are refused");
  const size_t colon = line.find(':');
  if (colon == std::string_view::npos) return Refuse("a header line has no colon");
  if (!IsToken(line.substr(0, colon))) return Refuse("a header has no proper name");
  std::string_view value = line.substr(colon + 1);
  while (!value.empty() && (value.front() == ' ' || value.front() == '\t')) value.remove_prefix(1);
  while (!value.empty() && (value.back() == ' ' || value.back() == '\t')) value.remove_suffix(1);
  request->headers.push_back(
      {absl::AsciiStrToLower(std::string(line.substr(0, colon))), std::string(value)});
  return std::nullopt;
}

std::optional<HttpRefusal> CheckFraming(const HttpRequest& request) {
  const auto count = [&](std::string_view name) {
    return std::count_if(request.headers.begin(), request.headers.end(),
                         [name](const HttpHeader& header) { return header.name == name; });
  };
  const auto lengths = count("content-length");
  const auto codings = count("transfer-encoding");
  const auto hosts = count("host");
  if (lengths + codings > 1) {
    return Refuse("there must be one Content-Length or one Transfer-Encoding");
  }
  const std::string_view length = request.Header("content-length");
  const bool is_decimal = !length.empty() && length.size() <= kMaxLengthDigits &&
                          length.find_first_not_of("0123456789") == std::string_view::npos;
  if (lengths > 0 && !is_decimal) return Refuse("Content-Length must be a decimal number");
  if (codings > 0 && (!EqualsIgnoringCase(request.Header("transfer-encoding"), "chunked") ||
                      request.is_http_1_0)) {
    return Refuse("the only Transfer-Encoding is chunked, and only in HTTP/1.1");
  }
  if (hosts > 1 || (hosts == 0 && !request.is_http_1_0)) {
    return Refuse("there must be one Host header");
  }
  return std::nullopt;
}

}  // namespace

std::optional<HttpRefusal> ReadRequestHead(std::string_view head, const HeadLimits& limits,
                                           HttpRequest* request) {
  std::string_view rest = head;
  std::string_view line = NextLine(&rest);
  if (HasControlCharacters(line)) return Refuse("control characters in the request line");
  if (auto refusal = ReadRequestLine(line, limits, request)) return refusal;
  while (!(line = NextLine(&rest)).empty()) {
    if (HasControlCharacters(line)) return Refuse("control characters in a header");
    if (request->headers.size() >= limits.fields) {
      return Refuse(absl::StrCat("more than ", limits.fields, " header fields"), 431);
    }
    if (auto refusal = ReadField(line, request)) return refusal;
  }
  return CheckFraming(*request);
}

}  // namespace tessera
