#include "server/metrics/metrics_http.h"

#include <civetweb.h>

#include <atomic>
#include <string_view>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "parallel/cluster/node_address.h"

namespace tessera {
namespace {

constexpr int kOk = 200;
constexpr int kNotFound = 404;
constexpr int kMethodNotAllowed = 405;
constexpr int kServiceUnavailable = 503;

int Reply(mg_connection* connection, int code, const char* type, const std::string& body) {
  mg_printf(
      connection,
      "HTTP/1.1 %d %s\r\nContent-Type: %s\r\nContent-Length: %zu\r\nConnection: close\r\n\r\n",
      code, mg_get_response_code_text(connection, code), type, body.size());
  mg_write(connection, body.data(), body.size());
  return code;
}

int ReplyState(mg_connection* connection, const absl::Status& status) {
  const std::string body = status.ok() ? "ok\n" : absl::StrCat(status.message(), "\n");
  return Reply(connection, status.ok() ? kOk : kServiceUnavailable, "text/plain; charset=utf-8",
               body);
}

int Handle(mg_connection* connection, void* data) {
  const auto& pages = *static_cast<const MetricsPages*>(data);
  const mg_request_info* request = mg_get_request_info(connection);
  const std::string_view path = request->local_uri == nullptr ? "" : request->local_uri;
  const std::string_view method = request->request_method;
  if (method != "GET" && method != "HEAD") {
    return Reply(connection, kMethodNotAllowed, "text/plain", "only GET\n");
  }
  if (path == "/metrics") {
    return Reply(connection, kOk, "text/plain; version=0.0.4; charset=utf-8", pages.metrics());
  }
  if (path == "/healthz") return ReplyState(connection, pages.healthy());
  if (path == "/readyz") return ReplyState(connection, pages.ready());
  return Reply(connection, kNotFound, "text/plain",
               "not found; there are /metrics, /healthz and /readyz\n");
}

class Listener final : public MetricsHttp {
 public:
  explicit Listener(MetricsPages pages) : pages_(std::move(pages)) {}
  ~Listener() override {
    if (context_ == nullptr) return;
    // The library's thread sleeps up to two seconds between looks at its stop flag; a connection
    // wakes it.
    std::atomic<bool> stopped = false;
    std::thread waker([&] {
      while (!stopped) {
        Knock();
        absl::SleepFor(absl::Milliseconds(10));
      }
    });
    mg_stop(context_);
    stopped = true;
    waker.join();
  }

  absl::Status Listen(const std::string& host, int32_t port) {
    const std::string address = MakeHostPort(host, port).ToString();
    // A connection that says nothing takes a thread until the timeout: probes must get through
    // beside dozens of them.
    const char* options[] = {"listening_ports",
                             address.c_str(),
                             "num_threads",
                             "32",
                             "request_timeout_ms",
                             "1000",
                             "enable_keep_alive",
                             "no",
                             nullptr};
    const mg_callbacks callbacks = {};
    context_ = mg_start(&callbacks, nullptr, options);
    mg_server_port listening = {};
    if (context_ == nullptr || mg_get_server_ports(context_, 1, &listening) < 1) {
      return absl::UnavailableError(
          absl::StrCat("cannot listen on ", address,
                       " for metrics; if another program uses the port choose a different "
                       "--metrics-port (0 picks a free one), otherwise check --host"));
    }
    port_ = listening.port;
    host_ = host;
    mg_set_request_handler(context_, "/", &Handle, &pages_);
    return absl::OkStatus();
  }

  int32_t port() const override { return port_; }

 private:
  MetricsPages pages_;
  mg_context* context_ = nullptr;
  std::string host_;
  int32_t port_ = 0;

  void Knock() const {
    char error[64] = {};
    mg_connection* connection =
        mg_connect_client(host_.c_str(), port_, /*use_ssl=*/0, error, sizeof(error));
    if (connection != nullptr) mg_close_connection(connection);
  }
};

}  // namespace

absl::StatusOr<std::unique_ptr<MetricsHttp>> MetricsHttp::Start(const std::string& host,
                                                                int32_t port, MetricsPages pages) {
  auto listener = std::make_unique<Listener>(std::move(pages));
  absl::Status status = listener->Listen(host == "localhost" ? "127.0.0.1" : host, port);
  if (!status.ok()) return status;
  return listener;
}

}  // namespace tessera
