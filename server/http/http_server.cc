#include "server/http/http_server.h"

#include <sys/stat.h>
#include <unistd.h>

#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/local/stream_protocol.hpp>
#include <boost/asio/post.hpp>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/core/exception_boundary.h"
#include "kernels/core/status_macros.h"
#include "parallel/cluster/node_address.h"
#include "server/access/server_tls.h"
#include "server/http/connection.h"
#include "server/logging.h"

namespace tessera {
namespace {

namespace asio = boost::asio;
using boost::system::error_code;
using Acceptor = asio::basic_socket_acceptor<asio::generic::stream_protocol>;
using Endpoint = asio::generic::stream_protocol::endpoint;

// When there are no file handles left and no connection to close for one.
constexpr absl::Duration kAcceptRetry = absl::Milliseconds(100);
constexpr absl::Duration kShutdownPoll = absl::Milliseconds(5);
// Connections that are only told that they are too many.
constexpr int32_t kMaxRefused = 64;

absl::StatusOr<Endpoint> Resolve(const HostPort& address, asio::io_context& io) {
  error_code error;
  asio::ip::tcp::resolver resolver(io);
  const auto found = resolver.resolve(address.host, absl::StrCat(address.port),
                                      asio::ip::resolver_base::passive, error);
  if (error || found.empty()) {
    return absl::UnavailableError(absl::StrCat("--host: ", address.host, ": ", error.message()));
  }
  return Endpoint(found.begin()->endpoint());
}

// Nobody else may lose a file or a socket by it.
absl::Status RemoveStaleSocket(const std::string& path) {
  struct stat info = {};
  if (lstat(path.c_str(), &info) != 0) return absl::OkStatus();
  if (!S_ISSOCK(info.st_mode)) {
    return absl::UnavailableError(absl::StrCat(path, ": there is a file that is no socket"));
  }
  asio::io_context io;
  asio::local::stream_protocol::socket probe(io);
  error_code error;
  probe.connect(asio::local::stream_protocol::endpoint(path), error);
  if (!error) return absl::UnavailableError(absl::StrCat(path, ": another program listens there"));
  unlink(path.c_str());
  return absl::OkStatus();
}

class Listener final : public HttpServer {
 public:
  Listener(const HttpServerOptions& options, HttpHandler handler)
      : host_(std::make_shared<ConnectionHost>()), acceptor_(host_->io), retry_(host_->io) {
    host_->options = options;
    host_->handler = std::move(handler);
  }
  ~Listener() override {
    Shutdown(absl::ZeroDuration());
    if (!bound_path_.empty()) unlink(bound_path_.c_str());
  }

  absl::Status Listen() {
    const HttpServerOptions& options = host_->options;
    Endpoint endpoint;
    if (!options.unix_path.empty()) {
      constexpr size_t kMaxPath = 107;  // of sockaddr_un
      if (options.unix_path.size() > kMaxPath) {
        return absl::UnavailableError(
            absl::StrCat(options.unix_path, ": longer than ", kMaxPath, " bytes"));
      }
      RETURN_IF_ERROR(RemoveStaleSocket(options.unix_path));
      endpoint = asio::local::stream_protocol::endpoint(options.unix_path);
      address_ = absl::StrCat("unix:", options.unix_path);
    } else {
      const HostPort wanted = MakeHostPort(options.host, options.port);
      address_ = wanted.ToString();
      ASSIGN_OR_RETURN(endpoint, Resolve(wanted, host_->io));
    }
    RETURN_IF_ERROR(Bind(endpoint));
    if (options.tls != nullptr && bound_path_.empty()) {
      tls_identity_ = options.tls->identity();
      ASSIGN_OR_RETURN(tls_context_, MakeTlsContext(*tls_identity_));
    }
    Accept();
    thread_ = std::thread([this] { Run(); });
    return absl::OkStatus();
  }

  int32_t port() const override { return port_; }
  std::string address() const override { return address_; }
  int32_t num_connections() const override { return host_->num_connections; }

  void Shutdown(absl::Duration timeout) override {
    if (!thread_.joinable()) return;
    asio::post(host_->io, [this, timeout] { BeginShutdown(timeout); });
    thread_.join();
  }

 private:
  absl::Status Bind(const Endpoint& endpoint) {
    error_code error;
    acceptor_.open(endpoint.protocol(), error);
    const bool is_ip = endpoint.protocol().family() != AF_UNIX;
    if (!error && is_ip) acceptor_.set_option(asio::socket_base::reuse_address(true), error);
    if (!error) acceptor_.bind(endpoint, error);
    if (!error) acceptor_.listen(asio::socket_base::max_listen_connections, error);
    if (error) {
      return absl::UnavailableError(
          absl::StrCat("cannot listen on ", address_, ": ", error.message(),
                       "; if another program uses the port choose a different ",
                       host_->options.option, " (0 picks a free one), otherwise check --host"));
    }
    if (!is_ip) {
      bound_path_ = host_->options.unix_path;
      return absl::OkStatus();
    }
    const Endpoint bound = acceptor_.local_endpoint(error);
    // The port stands at the same place in both families' addresses.
    port_ = ntohs(reinterpret_cast<const sockaddr_in*>(bound.data())->sin_port);
    address_ = MakeHostPort(host_->options.host, port_).ToString();
    return absl::OkStatus();
  }

  // What a library throws ends what it was doing, not the server.
  void Run() {
    while (!host_->io.stopped()) {
      const absl::Status status = Guarded([this]() -> absl::Status {
        host_->io.run();
        return absl::OkStatus();
      });
      if (!status.ok()) LogError(absl::StrCat("HTTP: ", std::string(status.message())));
    }
    {
      absl::MutexLock lock(&host_->mutex);
      host_->stopped = true;
    }
    // What was posted in the last moment holds what holds the queue that it lies in.
    host_->io.restart();
    host_->io.poll();
  }

  void Accept() {
    acceptor_.async_accept([this](error_code error, HttpSocket socket) {
      if (!acceptor_.is_open()) return;
      if (!error) Welcome(std::move(socket));
      if (!error || error == asio::error::connection_aborted) return Accept();
      // No file handles, most likely.
      if (!host_->silent.empty()) {
        host_->silent.front()->Close();
        return Accept();
      }
      retry_.expires_after(absl::ToChronoNanoseconds(kAcceptRetry));
      retry_.async_wait([this](error_code cancelled) {
        if (!cancelled && acceptor_.is_open()) Accept();
      });
    });
  }

  void Welcome(HttpSocket socket) {
    error_code ignored;
    if (bound_path_.empty()) socket.set_option(asio::ip::tcp::no_delay(true), ignored);
    const int32_t most = host_->options.max_connections;
    if (host_->num_connections >= most && !host_->silent.empty()) host_->silent.front()->Close();
    if (host_->num_connections >= most + kMaxRefused) return;
    const bool is_too_many = host_->num_connections >= most;
    const auto connection =
        std::make_shared<Connection>(host_, std::move(socket), CurrentTlsContext());
    if (is_too_many) {
      if (connection->is_encrypted()) return connection->Close();
      return connection->Refuse({503, "too many connections; try again later"});
    }
    connection->Start();
  }

  // Made anew when the files have changed. nullptr: nothing is encrypted.
  std::shared_ptr<TlsContext> CurrentTlsContext() {
    if (host_->options.tls == nullptr || !bound_path_.empty()) return nullptr;
    std::shared_ptr<const TlsIdentity> identity = host_->options.tls->identity();
    if (identity == tls_identity_) return tls_context_;
    auto context = MakeTlsContext(*identity);
    if (context.ok()) {
      tls_context_ = *std::move(context);
    } else {
      LogError(std::string(context.status().message()));
    }
    tls_identity_ = std::move(identity);
    return tls_context_;
  }

  void BeginShutdown(absl::Duration timeout) {
    host_->stopping = true;
    error_code ignored;
    acceptor_.close(ignored);
    CloseAll(host_->silent);
    AwaitEnd(std::chrono::steady_clock::now() + absl::ToChronoNanoseconds(timeout));
  }

  void AwaitEnd(std::chrono::steady_clock::time_point deadline) {
    if (std::chrono::steady_clock::now() >= deadline) CloseAll(host_->all);
    if (host_->all.empty()) return work_.reset();
    retry_.expires_after(absl::ToChronoNanoseconds(kShutdownPoll));
    retry_.async_wait([this, deadline](error_code cancelled) {
      if (!cancelled) AwaitEnd(deadline);
    });
  }

  static void CloseAll(const std::list<Connection*>& connections) {
    std::vector<std::shared_ptr<Connection>> closed;
    for (Connection* connection : connections) closed.push_back(connection->shared_from_this());
    for (const auto& connection : closed) connection->Leave();
  }

  const std::shared_ptr<ConnectionHost> host_;
  Acceptor acceptor_;
  asio::steady_timer retry_;
  asio::executor_work_guard<asio::io_context::executor_type> work_{host_->io.get_executor()};
  std::thread thread_;
  int32_t port_ = 0;
  std::string address_;
  std::string bound_path_;
  std::shared_ptr<const TlsIdentity> tls_identity_;  // that the context was made of
  std::shared_ptr<TlsContext> tls_context_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<HttpServer>> HttpServer::Start(const HttpServerOptions& options,
                                                              HttpHandler handler) {
  auto listener = std::make_unique<Listener>(options, std::move(handler));
  RETURN_IF_ERROR(listener->Listen());
  return listener;
}

}  // namespace tessera
