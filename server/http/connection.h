// One connection of an HttpServer.
#ifndef TESSERA_SERVER_HTTP_CONNECTION_H_
#define TESSERA_SERVER_HTTP_CONNECTION_H_

#include <atomic>
#include <boost/asio/io_context.hpp>
#include <boost/asio/steady_timer.hpp>
#include <chrono>
#include <cstdint>
#include <list>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "absl/synchronization/mutex.h"
#include "server/http/http_exchange.h"
#include "server/http/http_server.h"
#include "server/http/http_stream.h"
#include "server/http/request_reader.h"

namespace tessera {

class Connection;

// What the connections of a server share. Outlives them; the server's thread alone, but for what
// the mutex guards.
struct ConnectionHost {
  HttpServerOptions options;
  HttpHandler handler;
  boost::asio::io_context io{1};
  std::list<Connection*> all;
  std::list<Connection*> silent;             // without a request, the longest first
  std::atomic<int32_t> num_connections = 0;  // for other threads
  int64_t receiving_bytes = 0;
  bool stopping = false;  // no connection outlives its request

  absl::Mutex mutex;
  bool stopped ABSL_GUARDED_BY(mutex) = false;  // io takes no work any more
};

// Lives as long as an operation of it is under way or somebody holds its exchange.
class Connection : public std::enable_shared_from_this<Connection> {
 public:
  using Callback = HttpExchange::Callback;

  // Without a context nothing is encrypted.
  Connection(std::shared_ptr<ConnectionHost> host, HttpSocket socket,
             std::shared_ptr<TlsContext> context);
  ~Connection();

  void Start();
  // Without waiting for anything.
  void Close();
  // The same, and tells the handler of a request under way that its client has gone.
  void Leave();
  // Answers `status` and closes: for a connection too many.
  void Refuse(const HttpRefusal& refusal);
  void RefuseWith(const HttpResponse& response);
  bool is_silent() const { return is_silent_; }
  bool is_encrypted() const { return stream_.is_encrypted(); }

  // For its exchange.
  ConnectionHost& host() { return *host_; }
  // Writes and then calls `done`; the last piece ends the answer.
  void Write(std::string bytes, bool is_last, Callback done);
  void SetGone(Callback gone) { gone_ = std::move(gone); }
  bool is_answering(uint64_t request) const {
    return phase_ == Phase::kAnswering && request == num_requests_ && !last_written_;
  }
  // Written whenever nothing else was for so long, until the last piece.
  void SetIdlePiece(std::string bytes, absl::Duration silence);
  // Nothing follows on this connection.
  void EndAfterAnswer() { keep_alive_ = false; }

 private:
  enum class Phase : uint8_t { kReading, kAnswering, kLingering, kClosed };

  void Read();
  void OnRead(boost::system::error_code error, size_t count);
  void Advance();
  void AwaitHead();
  void AwaitBody();
  void Dispatch();
  void OnWritten(boost::system::error_code error);
  void EndAnswer();
  void Linger();
  void SetSilent(bool silent);
  void SetReceiving(int64_t bytes);
  void SetDeadline(absl::Duration from_now);
  void Arm();
  void OnDeadline();

  const std::shared_ptr<ConnectionHost> host_;
  HttpStream stream_;
  boost::asio::steady_timer timer_;
  std::chrono::steady_clock::time_point deadline_;
  bool timer_armed_ = false;

  RequestReader reader_;
  Phase phase_ = Phase::kReading;
  std::string piece_;     // what a read fills
  std::string incoming_;  // read, not consumed
  bool reading_ = false;
  bool in_body_ = false;
  bool has_begun_ = false;   // the first byte of a request after the first is there
  bool peer_ended_ = false;  // it will send nothing more
  bool keep_alive_ = true;
  size_t lingered_bytes_ = 0;

  uint64_t num_requests_ = 0;
  struct Piece {
    std::string bytes;
    bool is_last = false;
    Callback done;
  };
  std::string outgoing_;
  bool writing_ = false;
  std::optional<Piece> waiting_;  // for an idle piece to be written
  std::string idle_piece_;
  absl::Duration idle_silence_ = absl::InfiniteDuration();
  bool last_written_ = false;  // the last piece of the answer is under way
  Callback written_;
  Callback gone_;

  bool is_silent_ = false;
  std::list<Connection*>::iterator place_in_all_;
  std::list<Connection*>::iterator place_in_silent_;
  int64_t receiving_bytes_ = 0;
};

}  // namespace tessera

#endif  // TESSERA_SERVER_HTTP_CONNECTION_H_
