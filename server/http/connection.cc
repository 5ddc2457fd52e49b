#include "server/http/connection.h"

#include <algorithm>
#include <boost/asio/buffer.hpp>
#include <boost/asio/error.hpp>
#include <boost/asio/post.hpp>
#include <utility>

#include "absl/random/random.h"
#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "kernels/core/exception_boundary.h"
#include "kernels/core/status_macros.h"
#include "server/http/http_error.h"

namespace tessera {
namespace {

using boost::system::error_code;
using Clock = std::chrono::steady_clock;

constexpr size_t kReadBytes = 4 << 10;
constexpr size_t kReadBodyBytes = 64 << 10;
// What a client may send ahead of the answer to what it has sent before.
constexpr size_t kMaxAheadBytes = 64 << 10;
// After the last answer: for a client that still sends to come to it.
constexpr absl::Duration kLinger = absl::Seconds(2);
constexpr size_t kMaxLingerBytes = 16 << 20;
constexpr size_t kMaxIdBytes = 128;
constexpr std::string_view kLastChunk = "0\r\n\r\n";

bool IsRequestId(std::string_view text) {
  constexpr std::string_view kMarks = "._:-";
  return !text.empty() && text.size() <= kMaxIdBytes &&
         std::all_of(text.begin(), text.end(), [&](char c) {
           return absl::ascii_isalnum(static_cast<unsigned char>(c)) ||
                  kMarks.find(c) != std::string_view::npos;
         });
}

std::string RequestIdOf(const HttpRequest& request) {
  const std::string_view given = request.Header("x-request-id");
  if (IsRequestId(given)) return std::string(given);
  thread_local absl::BitGen generator;
  return absl::StrCat("http-", absl::Hex(absl::Uniform<uint64_t>(generator), absl::kZeroPad16));
}

// The status line and the headers; `framing` tells where the body ends.
std::string HeadOf(const HttpResponse& response, const HttpRequest& request, bool keep_alive,
                   std::string_view framing) {
  std::string head = absl::StrCat(
      "HTTP/1.1 ", response.status, " ", std::string(HttpReason(response.status)),
      "\r\nDate: ", absl::FormatTime("%a, %d %b %Y %H:%M:%S GMT", absl::Now(), absl::UTCTimeZone()),
      "\r\n", std::string(framing), "x-request-id: ", request.id, "\r\n");
  if (!response.content_type.empty()) {
    absl::StrAppend(&head, "Content-Type: ", response.content_type, "\r\n");
  }
  for (const HttpHeader& header : response.headers) {
    absl::StrAppend(&head, header.name, ": ", header.value, "\r\n");
  }
  if (!keep_alive) {
    absl::StrAppend(&head, "Connection: close\r\n");
  } else if (request.is_http_1_0) {
    absl::StrAppend(&head, "Connection: keep-alive\r\n");
  }
  return absl::StrCat(head, "\r\n");
}

std::string WholeAnswer(const HttpResponse& response, const HttpRequest& request, bool keep_alive) {
  const bool has_length = response.status != 204;
  std::string bytes = HeadOf(
      response, request, keep_alive,
      has_length ? absl::StrCat("Content-Length: ", response.body.size(), "\r\n") : std::string());
  if (request.method != "HEAD") bytes += response.body;
  return bytes;
}

class Exchange final : public HttpExchange {
 public:
  Exchange(std::shared_ptr<Connection> connection, uint64_t number, HttpRequest request,
           bool keep_alive)
      : connection_(std::move(connection)),
        number_(number),
        request_(std::move(request)),
        keep_alive_(keep_alive),
        is_chunked_(!request_.is_http_1_0) {}

  const HttpRequest& request() const override { return request_; }
  std::string TakeBody() override { return std::exchange(request_.body, {}); }

  void Post(Callback work) override {
    ConnectionHost& host = connection_->host();
    absl::MutexLock lock(&host.mutex);
    if (host.stopped) return;
    boost::asio::post(host.io, [called = std::move(work)]() mutable { std::move(called)(); });
  }

  void Respond(HttpResponse response, Callback done) override {
    if (!is_open()) return;
    connection_->Write(WholeAnswer(response, request_, keep_alive_), /*is_last=*/true,
                       std::move(done));
  }

  void BeginStream(HttpResponse head, bool is_last, Callback done) override {
    if (!is_open()) return;
    if (!is_chunked_) connection_->EndAfterAnswer();
    std::string bytes = HeadOf(head, request_, keep_alive_ && is_chunked_,
                               is_chunked_ ? "Transfer-Encoding: chunked\r\n" : "");
    AppendPiece(head.body, &bytes);
    if (is_last && is_chunked_) bytes += kLastChunk;
    connection_->Write(std::move(bytes), is_last, std::move(done));
  }

  void Write(std::string piece, Callback done) override {
    if (!is_open()) return;
    std::string bytes;
    AppendPiece(piece, &bytes);
    connection_->Write(std::move(bytes), /*is_last=*/false, std::move(done));
  }

  void WriteLast(std::string piece, Callback done) override {
    if (!is_open()) return;
    std::string bytes;
    AppendPiece(piece, &bytes);
    if (is_chunked_) bytes += kLastChunk;
    connection_->Write(std::move(bytes), /*is_last=*/true, std::move(done));
  }

  void SetIdlePiece(std::string piece, absl::Duration silence) override {
    if (!is_open()) return;
    std::string bytes;
    AppendPiece(piece, &bytes);
    connection_->SetIdlePiece(std::move(bytes), silence);
  }

  void Abort() override {
    if (is_open()) connection_->Close();
  }

  void OnGone(Callback gone) override {
    if (!is_open()) return std::move(gone)();
    connection_->SetGone(std::move(gone));
  }

  bool is_open() const { return connection_->is_answering(number_); }

 private:
  void AppendPiece(std::string_view piece, std::string* bytes) const {
    if (piece.empty()) return;
    if (is_chunked_) absl::StrAppend(bytes, absl::Hex(piece.size()), "\r\n");
    bytes->append(piece);
    if (is_chunked_) bytes->append("\r\n");
  }

  const std::shared_ptr<Connection> connection_;
  const uint64_t number_;
  HttpRequest request_;
  const bool keep_alive_;
  // Who speaks HTTP/1.0 sees the end of a stream by the end of the connection.
  const bool is_chunked_;
};

}  // namespace

Connection::Connection(std::shared_ptr<ConnectionHost> host, HttpSocket socket,
                       std::shared_ptr<TlsContext> context)
    : host_(std::move(host)),
      stream_(std::move(socket), std::move(context)),
      timer_(host_->io),
      deadline_(Clock::time_point::max()),
      reader_(host_->options.limits) {
  place_in_all_ = host_->all.insert(host_->all.end(), this);
  host_->num_connections = static_cast<int32_t>(host_->all.size());
}

Connection::~Connection() { Close(); }

void Connection::Start() {
  SetSilent(true);
  SetDeadline(host_->options.timeouts.head);
  if (!stream_.is_encrypted()) return Read();
  stream_.AsyncHandshake([self = shared_from_this()](error_code error) {
    if (self->phase_ == Phase::kClosed) return;
    return error ? self->Close() : self->Read();
  });
}

void Connection::Close() {
  if (phase_ == Phase::kClosed) return;
  phase_ = Phase::kClosed;
  SetSilent(false);
  SetReceiving(0);
  host_->all.erase(place_in_all_);
  host_->num_connections = static_cast<int32_t>(host_->all.size());
  timer_.cancel();
  stream_.Close();
  // What these hold may be the last to hold this.
  const std::shared_ptr<Connection> self = weak_from_this().lock();
  gone_ = nullptr;
  written_ = nullptr;
}

void Connection::Leave() {
  Callback gone = std::exchange(gone_, nullptr);
  Close();
  if (gone) std::move(gone)();
}

void Connection::Read() {
  if (reading_ || peer_ended_) return;
  reading_ = true;
  const bool is_much = in_body_ || phase_ == Phase::kLingering;
  const size_t most = is_much ? kReadBodyBytes : kReadBytes;
  if (piece_.size() != most) piece_ = std::string(most, '\0');
  stream_.AsyncReadSome(
      boost::asio::buffer(piece_),
      [self = shared_from_this()](error_code error, size_t count) { self->OnRead(error, count); });
}

void Connection::OnRead(error_code error, size_t count) {
  reading_ = false;
  if (phase_ == Phase::kClosed) return;
  if (error) {
    peer_ended_ = true;
    // The answer may be on its way to a client that only does not send any more.
    if (phase_ == Phase::kAnswering && last_written_ && error == boost::asio::error::eof) return;
    return Leave();
  }
  if (phase_ != Phase::kLingering) incoming_.append(piece_, 0, count);
  switch (phase_) {
    case Phase::kReading:
      if (in_body_) SetReceiving(receiving_bytes_ + static_cast<int64_t>(count));
      return Advance();
    case Phase::kAnswering:
      if (incoming_.size() < kMaxAheadBytes) Read();
      return;
    case Phase::kLingering:
      lingered_bytes_ += count;
      return lingered_bytes_ > kMaxLingerBytes ? Close() : Read();
    case Phase::kClosed:
      return;
  }
}

void Connection::Advance() {
  if (host_->receiving_bytes > host_->options.max_receiving_bytes) {
    return Refuse({503, "too many large requests are being received; try again later"});
  }
  switch (reader_.Advance(&incoming_)) {
    case RequestReader::State::kHead:
      return AwaitHead();
    case RequestReader::State::kBody:
      return AwaitBody();
    case RequestReader::State::kDone:
      return Dispatch();
    case RequestReader::State::kRefused:
      return Refuse(reader_.refusal());
  }
}

void Connection::AwaitHead() {
  if (peer_ended_) return Close();
  // From the first byte on it is a request and no longer a rest between two.
  if (!incoming_.empty() && num_requests_ > 0 && !has_begun_) {
    has_begun_ = true;
    SetDeadline(host_->options.timeouts.head);
  }
  Read();
}

void Connection::AwaitBody() {
  if (peer_ended_) return Close();
  if (!in_body_) {
    if (const auto& refuse = host_->options.refuse_head) {
      if (const auto response = refuse(reader_.request())) return RefuseWith(*response);
    }
    in_body_ = true;
    SetSilent(false);
    SetDeadline(host_->options.timeouts.body);
    if (reader_.ExpectsContinue()) {
      // So few bytes always find room behind a complete answer; a client that misses them goes on
      // by itself after a while.
      stream_.TryWrite("HTTP/1.1 100 Continue\r\n\r\n");
    }
  }
  Read();
}

void Connection::Dispatch() {
  const std::shared_ptr<Connection> self = shared_from_this();
  SetSilent(false);
  SetReceiving(0);
  SetDeadline(absl::InfiniteDuration());
  phase_ = Phase::kAnswering;
  in_body_ = has_begun_ = false;
  keep_alive_ = reader_.keep_alive() && !host_->stopping;
  ++num_requests_;
  HttpRequest request = reader_.TakeRequest();
  request.id = RequestIdOf(request);
  const auto exchange =
      std::make_shared<Exchange>(self, num_requests_, std::move(request), keep_alive_);
  const absl::Status status = Guarded([&]() -> absl::Status {
    host_->handler(exchange);
    return absl::OkStatus();
  });
  if (!status.ok()) {
    exchange->Respond(HttpErrorResponse({.message = std::string(status.message())}), [] {});
  }
  if (phase_ != Phase::kAnswering) return;
  if (peer_ended_ && !last_written_) return Leave();
  if (incoming_.size() < kMaxAheadBytes) Read();
}

void Connection::Refuse(const HttpRefusal& refusal) {
  RefuseWith(HttpErrorResponse({.status = refusal.status, .message = refusal.message}));
}

void Connection::RefuseWith(const HttpResponse& response) {
  SetSilent(false);
  SetReceiving(0);
  phase_ = Phase::kAnswering;
  keep_alive_ = false;
  in_body_ = false;
  ++num_requests_;
  HttpRequest request = reader_.request();
  request.id = RequestIdOf(request);
  incoming_.clear();
  Write(WholeAnswer(response, request, /*keep_alive=*/false), /*is_last=*/true, [] {});
  Read();
}

void Connection::Write(std::string bytes, bool is_last, Callback done) {
  if (writing_) {
    TESSERA_CHECK(written_ == nullptr && !waiting_ && !last_written_);  // only an idle piece
    waiting_ = {std::move(bytes), is_last, std::move(done)};
    return;
  }
  writing_ = true;
  last_written_ = is_last;
  outgoing_ = std::move(bytes);
  written_ = std::move(done);
  SetDeadline(host_->options.timeouts.write);
  stream_.AsyncWrite(
      boost::asio::buffer(outgoing_),
      [self = shared_from_this()](error_code error, size_t) { self->OnWritten(error); });
}

void Connection::OnWritten(error_code error) {
  writing_ = false;
  if (phase_ == Phase::kClosed) return;
  if (error) return Leave();
  outgoing_ = std::string();
  SetDeadline(last_written_ ? absl::InfiniteDuration() : idle_silence_);
  if (waiting_) {
    Piece piece = *std::exchange(waiting_, std::nullopt);
    return Write(std::move(piece.bytes), piece.is_last, std::move(piece.done));
  }
  const bool was_last = last_written_;
  if (was_last) gone_ = nullptr;
  Callback done = std::exchange(written_, nullptr);
  if (done) std::move(done)();
  if (was_last && phase_ == Phase::kAnswering) EndAnswer();
}

void Connection::SetIdlePiece(std::string bytes, absl::Duration silence) {
  idle_piece_ = std::move(bytes);
  idle_silence_ = silence;
}

void Connection::EndAnswer() {
  last_written_ = false;
  SetIdlePiece({}, absl::InfiniteDuration());
  if (!keep_alive_ || host_->stopping) return Linger();
  phase_ = Phase::kReading;
  SetSilent(true);
  SetDeadline(host_->options.timeouts.idle);
  Advance();
}

void Connection::Linger() {
  if (peer_ended_) return Close();
  phase_ = Phase::kLingering;
  incoming_.clear();
  incoming_.shrink_to_fit();
  SetDeadline(kLinger);
  stream_.AsyncEndSending([self = shared_from_this()] {
    if (self->phase_ == Phase::kLingering) self->Read();
  });
  Read();
}

void Connection::SetSilent(bool silent) {
  if (silent == is_silent_) return;
  is_silent_ = silent;
  if (silent) {
    place_in_silent_ = host_->silent.insert(host_->silent.end(), this);
  } else {
    host_->silent.erase(place_in_silent_);
  }
}

void Connection::SetReceiving(int64_t bytes) {
  host_->receiving_bytes += bytes - receiving_bytes_;
  receiving_bytes_ = bytes;
}

void Connection::SetDeadline(absl::Duration from_now) {
  if (from_now == absl::InfiniteDuration()) {
    deadline_ = Clock::time_point::max();
    return;
  }
  deadline_ = Clock::now() + absl::ToChronoNanoseconds(from_now);
  // A timer that is set to an earlier time looks again then: most deadlines are moved before they
  // come, and moving a timer costs more than a number.
  if (!timer_armed_ || timer_.expiry() > deadline_) Arm();
}

void Connection::Arm() {
  timer_armed_ = true;
  timer_.expires_at(deadline_);
  timer_.async_wait([self = shared_from_this()](error_code error) {
    if (error || self->phase_ == Phase::kClosed) return;
    self->timer_armed_ = false;
    if (Clock::now() >= self->deadline_) return self->OnDeadline();
    if (self->deadline_ != Clock::time_point::max()) self->Arm();
  });
}

void Connection::OnDeadline() {
  if (phase_ == Phase::kAnswering && !writing_) {
    return Write(idle_piece_, /*is_last=*/false, nullptr);
  }
  const bool has_begun = in_body_ || !incoming_.empty();
  if (phase_ == Phase::kReading && has_begun) {
    return Refuse({408, in_body_ ? "the request's body came too slowly"
                                 : "the request's head came too slowly"});
  }
  Leave();
}

}  // namespace tessera
