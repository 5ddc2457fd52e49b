#include "server/http/openai/api_client.h"

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
#include <nlohmann/json.hpp>
#include <optional>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
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
using Json = nlohmann::json;

constexpr absl::Duration kConnectTimeout = absl::Seconds(10);
constexpr absl::Duration kPollInterval = absl::Milliseconds(50);
constexpr size_t kMaxErrorBytes = 4096;

struct ApiUrl {
  std::string host;  // without brackets
  std::string port;
  std::string authority;  // as in the URL
  std::string path;       // without the last slash
};

absl::StatusOr<ApiUrl> ParseUrl(const std::string& url) {
  const absl::Status bad = absl::InvalidArgumentError(
      absl::StrCat("\"", url, "\" is not http://HOST:PORT, with or without a path"));
  absl::string_view rest = url;
  if (!absl::ConsumePrefix(&rest, "http://")) return bad;
  const size_t slash = std::min(rest.find('/'), rest.size());
  ApiUrl parsed{.authority = std::string(rest.substr(0, slash)),
                .path = std::string(absl::StripSuffix(rest.substr(slash), "/"))};
  if (parsed.path.empty()) parsed.path = "/v1";
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

absl::StatusCode CodeOf(int http_status) {
  switch (http_status) {
    case 400:
    case 413:
    case 422:
      return absl::StatusCode::kInvalidArgument;
    case 401:
      return absl::StatusCode::kUnauthenticated;
    case 403:
      return absl::StatusCode::kPermissionDenied;
    case 404:
      return absl::StatusCode::kNotFound;
    case 408:
    case 504:
      return absl::StatusCode::kDeadlineExceeded;
    case 429:
      return absl::StatusCode::kResourceExhausted;
    case 499:
      return absl::StatusCode::kCancelled;
    case 502:
    case 503:
      return absl::StatusCode::kUnavailable;
    default:
      return http_status >= 500 ? absl::StatusCode::kInternal : absl::StatusCode::kUnknown;
  }
}

// {"error": {"message", "code"}}, or whatever else the body says.
absl::Status ErrorOf(int http_status, const std::string& body) {
  const Json json = Json::parse(body, nullptr, /*allow_exceptions=*/false);
  std::string message = body.substr(0, kMaxErrorBytes);
  if (json.is_object() && json.contains("error")) {
    const Json& error = json["error"];
    if (error.is_object() && error.contains("message") && error["message"].is_string()) {
      message = error["message"].get<std::string>();
    }
    if (http_status == 200 && error.is_object() && error.contains("code") &&
        error["code"].is_number_integer()) {
      http_status = error["code"].get<int>();
    }
  }
  const absl::StatusCode code =
      http_status == 200 ? absl::StatusCode::kInternal : CodeOf(http_status);
  return {code, absl::StrCat("HTTP ", http_status, ": ", message)};
}

// Server-sent events of one answer, as they arrive in pieces.
class EventStream {
 public:
  explicit EventStream(const OutputHandler& on_output) : on_output_(on_output) {}

  absl::Status Add(std::string_view bytes) {
    pending_.append(bytes);
    size_t begin = 0;
    for (size_t end = pending_.find('\n'); end != std::string::npos;
         end = pending_.find('\n', begin)) {
      RETURN_IF_ERROR(
          Line(absl::StripAsciiWhitespace(absl::string_view(pending_).substr(begin, end - begin))));
      begin = end + 1;
    }
    pending_.erase(0, begin);
    return absl::OkStatus();
  }

  bool is_done() const { return is_done_; }

 private:
  absl::Status Line(absl::string_view line) {
    if (!absl::ConsumePrefix(&line, "data:")) return absl::OkStatus();
    line = absl::StripLeadingAsciiWhitespace(line);
    if (line == "[DONE]") {
      is_done_ = true;
      return absl::OkStatus();
    }
    const Json json = Json::parse(line, nullptr, /*allow_exceptions=*/false);
    if (!json.is_object()) {
      return absl::InternalError(absl::StrCat("an event is no JSON object: ", line.substr(0, 200)));
    }
    if (json.contains("error")) return ErrorOf(200, std::string(line));
    Chunk(json);
    return absl::OkStatus();
  }

  void Chunk(const Json& json) {
    v1::GenerateResponse response;
    const std::string text = TextOf(json);
    if (!text.empty()) response.add_choices()->set_text(text);
    const auto usage = json.find("usage");
    const bool has_usage = usage != json.end() && usage->is_object();
    if (has_usage) {
      tokens_ = std::max(tokens_, usage->value("completion_tokens", tokens_));
      prompt_tokens_ = usage->value("prompt_tokens", prompt_tokens_);
    } else if (!text.empty()) {
      ++tokens_;
    }
    if (text.empty() && !has_usage) return;
    response.mutable_usage()->set_completion_tokens(tokens_);
    response.mutable_usage()->set_prompt_tokens(prompt_tokens_);
    on_output_(response);
  }

  // Of a chunk of either kind; reasoning is output, too.
  static std::string TextOf(const Json& json) {
    std::string text;
    const auto choices = json.find("choices");
    if (choices == json.end() || !choices->is_array()) return text;
    for (const Json& choice : *choices) {
      const Json delta = choice.is_object() ? choice.value("delta", Json::object()) : Json();
      for (const char* name : {"reasoning_content", "reasoning", "content"}) {
        const auto found = delta.find(name);
        if (found != delta.end() && found->is_string()) text += found->get<std::string>();
        if (!text.empty()) break;  // both names of reasoning say the same
      }
      if (choice.is_object() && choice.contains("text") && choice["text"].is_string()) {
        text += choice["text"].get<std::string>();
      }
    }
    return text;
  }

  const OutputHandler& on_output_;
  std::string pending_;
  int32_t tokens_ = 0;
  int32_t prompt_tokens_ = 0;
  bool is_done_ = false;
};

// One connection. Used by one thread at a time.
class Connection {
 public:
  struct Limits {
    absl::Time deadline;                 // monotonic
    const std::atomic<bool>* cancelled;  // may be null
  };
  using BodyHandler = std::function<absl::Status(int status, std::string_view bytes)>;

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

  absl::Status Open(const ApiUrl& url, const Limits& limits) {
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
      RETURN_IF_ERROR(Handled(on_body(static_cast<int>(parser.get().result_int()), piece)));
    }
    if (!parser.get().keep_alive()) Close();
    return on_body(static_cast<int>(parser.get().result_int()), {});
  }

 private:
  static absl::Status Unavailable(const ApiUrl& url, const error_code& error) {
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

class ApiClient final : public TextGenerator {
 public:
  ApiClient(ApiUrl url, ApiClientOptions options)
      : url_(std::move(url)), options_(std::move(options)) {}

  absl::Status FindModel() {
    if (!options_.model.empty()) return absl::OkStatus();
    std::string body;
    RETURN_IF_ERROR(Ask(http::verb::get, "/models", "", nullptr, [&body](std::string_view bytes) {
      body.append(bytes);
      return absl::OkStatus();
    }));
    const Json json = Json::parse(body, nullptr, /*allow_exceptions=*/false);
    const Json models = json.is_object() ? json.value("data", Json::array()) : Json();
    if (!models.is_array() || models.empty() || !models[0].is_object() ||
        !models[0].contains("id") || !models[0]["id"].is_string()) {
      return absl::NotFoundError(absl::StrCat(url_.authority, url_.path,
                                              "/models names no model; say which with --model"));
    }
    options_.model = models[0]["id"].get<std::string>();
    return absl::OkStatus();
  }

  absl::Status Stream(const v1::GenerateRequest& request, const OutputHandler& on_output,
                      const std::atomic<bool>* cancelled) override {
    EventStream events(on_output);
    RETURN_IF_ERROR(Ask(http::verb::post, request.has_chat() ? "/chat/completions" : "/completions",
                        BodyOf(request), cancelled,
                        [&events](std::string_view bytes) { return events.Add(bytes); }));
    if (events.is_done()) return absl::OkStatus();
    return absl::UnavailableError("the stream ended before its end ([DONE])");
  }

 private:
  std::string BodyOf(const v1::GenerateRequest& request) const {
    Json json = {{"model", options_.model},
                 {"stream", true},
                 {"stream_options", {{"include_usage", true}, {"continuous_usage_stats", true}}}};
    if (request.has_chat()) {
      Json messages = Json::array();
      for (const v1::ChatMessage& message : request.chat().messages()) {
        messages.push_back({{"role", message.role()}, {"content", message.content()}});
      }
      json["messages"] = std::move(messages);
    } else if (request.has_token_ids()) {
      json["prompt"] =
          std::vector<int32_t>(request.token_ids().ids().begin(), request.token_ids().ids().end());
    } else {
      json["prompt"] = request.text();
    }
    if (request.sampling().has_temperature()) {
      json["temperature"] = request.sampling().temperature();
    }
    if (request.stopping().has_max_tokens()) json["max_tokens"] = request.stopping().max_tokens();
    if (request.stopping().ignore_eos()) json["ignore_eos"] = true;
    return json.dump(-1, ' ', false, Json::error_handler_t::replace);
  }

  // `on_body` gets the body of an answer that is 200; what else comes is the error.
  absl::Status Ask(http::verb verb, const std::string& path, std::string body,
                   const std::atomic<bool>* cancelled,
                   const std::function<absl::Status(std::string_view)>& on_body) {
    http::request<http::string_body> request(verb, url_.path + path, 11, std::move(body));
    request.set(http::field::host, url_.authority);
    request.set(http::field::accept, "text/event-stream, application/json");
    if (verb == http::verb::post) request.set(http::field::content_type, "application/json");
    if (!options_.authorization.empty()) {
      request.set(http::field::authorization, options_.authorization);
    }
    request.prepare_payload();
    const Connection::Limits limits{.deadline = MonotonicNow() + options_.timeout,
                                    .cancelled = cancelled};
    std::string error;
    int error_status = 0;
    const auto read = [&](int status, std::string_view bytes) {
      if (status == 200) return on_body(bytes);
      error_status = status;
      error.append(bytes.substr(0, kMaxErrorBytes - std::min(kMaxErrorBytes, error.size())));
      return absl::OkStatus();
    };
    std::unique_ptr<Connection> connection = Take();
    if (connection == nullptr) {
      connection = std::make_unique<Connection>();
      RETURN_IF_ERROR(connection->Open(url_, limits));
    }
    const absl::Status status = connection->Ask(request, limits, read);
    Keep(std::move(connection));
    RETURN_IF_ERROR(status);
    return error_status == 0 ? absl::OkStatus() : ErrorOf(error_status, error);
  }

  // A connection that is free, or null.
  std::unique_ptr<Connection> Take() {
    absl::MutexLock lock(&mutex_);
    while (!free_.empty()) {
      std::unique_ptr<Connection> connection = std::move(free_.back());
      free_.pop_back();
      if (connection->IsFree()) return connection;
    }
    return nullptr;
  }

  void Keep(std::unique_ptr<Connection> connection) {
    if (!connection->is_open()) return;
    absl::MutexLock lock(&mutex_);
    free_.push_back(std::move(connection));
  }

  const ApiUrl url_;
  ApiClientOptions options_;  // changes before the first Stream only
  absl::Mutex mutex_;
  std::vector<std::unique_ptr<Connection>> free_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace

absl::Status CheckApiUrl(const std::string& url) { return ParseUrl(url).status(); }

absl::StatusOr<std::unique_ptr<TextGenerator>> MakeApiClient(const ApiClientOptions& options) {
  ASSIGN_OR_RETURN(ApiUrl url, ParseUrl(options.url));
  auto client = std::make_unique<ApiClient>(std::move(url), options);
  RETURN_IF_ERROR(client->FindModel());
  return client;
}

}  // namespace tessera
