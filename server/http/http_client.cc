#include "server/http/http_client.h"

#include <algorithm>
#include <boost/asio/buffer.hpp>
#include <boost/asio/connect.hpp>
#include <boost/asio/error.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/core/tcp_stream.hpp>
#include <boost/beast/http/parser.hpp>
#include <boost/beast/http/read.hpp>
#include <boost/beast/http/string_body.hpp>
#include <boost/beast/http/write.hpp>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "absl/synchronization/mutex.h"
#include "kernels/core/monotonic_time.h"
#include "kernels/core/status_macros.h"

namespace tessera {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = beast::http;
using asio::ip::tcp;
using boost::system::error_code;

constexpr absl::Duration kConnectTimeout = absl::Seconds(10);
constexpr absl::Duration kPollInterval = absl::Milliseconds(50);

}  // namespace

absl::StatusOr<HttpUrl> ParseHttpUrl(const std::string& url) {
  const absl::Status bad = absl::InvalidArgumentError(
      absl::StrCat("\"", url, "\" is not http://HOST:PORT, with or without a path"));
  absl::string_view rest = url;
  if (!absl::ConsumePrefix(&rest, "http://")) return bad;
  const size_t slash = std::min(rest.find('/'), rest.size());
  HttpUrl parsed{.authority = std::string(rest.substr(0, slash)),
                 .path = std::string(absl::StripSuffix(rest.substr(slash), "/"))};
  absl::string_view authority = parsed.authority;
  const size_t colon = authority.rfind(':');
  const bool has_port = colon != absl::string_view::npos && !absl::EndsWith(authority, "]");
  parsed.port = has_port ? std::string(authority.substr(colon + 1)) : "80";
  if (has_port) authority.remove_suffix(authority.size() - colon);
  if (absl::StartsWith(authority, "[") && absl::EndsWith(authority, "]")) {
    authority = authority.substr(1, authority.size() - 2);
  }
  parsed.host = std::string(authority);
  uint32_t port = 0;
  if (parsed.host.empty() || !absl::SimpleAtoi(parsed.port, &port) || port == 0 || port > 65535 ||
      absl::StrContains(parsed.authority, '@') ||
      parsed.path.find_first_of(" \r\n") != std::string::npos) {
    return bad;
  }
  return parsed;
}

// Used by one thread at a time.
class HttpClient::Connection {
 public:
  struct Limits {
    absl::Time deadline;                 // monotonic
    const std::atomic<bool>* cancelled;  // may be null
  };

  bool is_open() const { return stream_.socket().is_open(); }

  // Between two requests: the server has neither closed it nor said anything.
  bool IsFree() {
    if (!is_open()) return false;
    char byte = 0;
    error_code error;
    stream_.socket().non_blocking(true, error);
    stream_.socket().receive(asio::buffer(&byte, 1), tcp::socket::message_peek, error);
    return error == asio::error::would_block;
  }

  absl::Status Open(const HttpUrl& url, const Limits& limits) {
    tcp::resolver resolver(context_);
    error_code error;
    const auto found = resolver.resolve(url.host, url.port, error);
    if (error) return Unavailable(url, error);
    const Limits connecting{.deadline = std::min(limits.deadline, MonotonicNow() + kConnectTimeout),
                            .cancelled = limits.cancelled};
    RETURN_IF_ERROR(Wait(
        connecting,
        [&](auto done) {
          stream_.async_connect(found, [done](error_code e, const auto&) { done(e); });
        },
        &error));
    if (error) return Unavailable(url, error);
    stream_.socket().set_option(tcp::no_delay(true), error);
    return absl::OkStatus();
  }

  // Gives the body in pieces.
  absl::Status Ask(const http::request<http::string_body>& request, const Limits& limits,
                   const BodyHandler& on_body) {
    error_code error;
    RETURN_IF_ERROR(Wait(
        limits,
        [&](auto done) {
          http::async_write(stream_, request, [done](error_code e, size_t) { done(e); });
        },
        &error));
    if (error) return Lost(error);
    http::response_parser<http::string_body> parser;
    parser.body_limit(boost::none);
    while (!parser.is_done()) {
      RETURN_IF_ERROR(Wait(
          limits,
          [&](auto done) {
            http::async_read_some(stream_, buffer_, parser,
                                  [done](error_code e, size_t) { done(e); });
          },
          &error));
      if (error) return Lost(error);
      if (!parser.is_header_done() || parser.get().body().empty()) continue;
      std::string piece;
      piece.swap(parser.get().body());
      RETURN_IF_ERROR(Handled(on_body(HeadOf(parser), piece)));
    }
    if (!parser.get().keep_alive()) Close();
    return on_body(HeadOf(parser), {});
  }

 private:
  static HttpAnswerHead HeadOf(const http::response_parser<http::string_body>& parser) {
    return {.status = static_cast<int>(parser.get().result_int()),
            .date = std::string(parser.get()[http::field::date])};
  }

  static absl::Status Unavailable(const HttpUrl& url, const error_code& error) {
    return absl::UnavailableError(
        absl::StrCat("no server answers at ", url.authority, ": ", error.message()));
  }

  absl::Status Lost(const error_code& error) {
    Close();
    return absl::UnavailableError(absl::StrCat("the connection was lost: ", error.message()));
  }

  absl::Status Handled(absl::Status status) {
    if (!status.ok()) Close();
    return status;
  }

  void Close() {
    stream_.close();
    buffer_.clear();
  }

  // Runs one operation to its end, or not longer than the limits allow.
  template <typename Start>
  absl::Status Wait(const Limits& limits, const Start& start, error_code* error) {
    bool is_done = false;
    start([&is_done, error](error_code e) {
      is_done = true;
      *error = e;
    });
    absl::Status status;
    while (!is_done) {
      const absl::Duration left = limits.deadline - MonotonicNow();
      const absl::Duration most = status.ok() ? std::min(left, kPollInterval) : kPollInterval;
      context_.restart();
      context_.run_one_for(absl::ToChronoNanoseconds(most));
      if (is_done || !status.ok()) continue;
      if (limits.cancelled != nullptr && limits.cancelled->load()) {
        status = absl::CancelledError("cancelled by the caller");
      } else if (limits.deadline <= MonotonicNow()) {
        status = absl::DeadlineExceededError("the deadline passed");
      }
      if (!status.ok()) Close();  // the operation ends with an error
    }
    return status;
  }

  asio::io_context context_;
  beast::tcp_stream stream_{context_};
  beast::flat_buffer buffer_;
};

struct HttpClient::Free {
  absl::Mutex mutex;
  std::vector<std::unique_ptr<Connection>> connections ABSL_GUARDED_BY(mutex);

  // One that is still good, or null.
  std::unique_ptr<Connection> Take() {
    absl::MutexLock lock(&mutex);
    while (!connections.empty()) {
      std::unique_ptr<Connection> connection = std::move(connections.back());
      connections.pop_back();
      if (connection->IsFree()) return connection;
    }
    return nullptr;
  }

  void Keep(std::unique_ptr<Connection> connection) {
    if (!connection->is_open()) return;
    absl::MutexLock lock(&mutex);
    connections.push_back(std::move(connection));
  }
};

HttpClient::HttpClient(HttpUrl url) : url_(std::move(url)), free_(std::make_unique<Free>()) {}

HttpClient::~HttpClient() = default;

absl::Status HttpClient::Call(const HttpCall& call, const BodyHandler& on_body) {
  http::request<http::string_body> request;
  request.method_string(call.method);
  request.target(call.path);
  request.version(11);
  request.set(http::field::host, url_.authority);
  for (const HttpHeader& header : call.headers) request.set(header.name, header.value);
  request.body() = call.body;
  request.prepare_payload();
  const Connection::Limits limits{.deadline = MonotonicNow() + call.timeout,
                                  .cancelled = call.cancelled};
  std::unique_ptr<Connection> connection = free_->Take();
  if (connection == nullptr) {
    connection = std::make_unique<Connection>();
    RETURN_IF_ERROR(connection->Open(url_, limits));
  }
  const absl::Status status = connection->Ask(request, limits, on_body);
  free_->Keep(std::move(connection));
  return status;
}

}  // namespace tessera
