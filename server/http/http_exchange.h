// One request on its way to its answer, as the routes see it.
#ifndef TESSERA_SERVER_HTTP_HTTP_EXCHANGE_H_
#define TESSERA_SERVER_HTTP_HTTP_EXCHANGE_H_

#include <functional>
#include <memory>
#include <string>
#include <utility>

#include "absl/functional/any_invocable.h"
#include "absl/time/time.h"
#include "server/http/http_message.h"

namespace tessera {

// Made by the listener. Everything but Post() is for the listener's thread alone. Handlers may keep
// it; once the answer has ended or the client has gone, calls do nothing.
class HttpExchange {
 public:
  using Callback = absl::AnyInvocable<void() &&>;

  virtual ~HttpExchange() = default;

  virtual const HttpRequest& request() const = 0;
  // Moves the body out, once.
  virtual std::string TakeBody() = 0;

  // Runs `work` on the listener's thread; forgotten when the listener has stopped. Any thread.
  virtual void Post(Callback work) = 0;

  // The whole answer, once. `done` runs when it has been written, and is forgotten when the client
  // has gone before.
  virtual void Respond(HttpResponse response, Callback done) = 0;
  void Respond(HttpResponse response) {
    Respond(std::move(response), [] {});
  }

  // An answer in pieces: its head, whose body is the first piece and perhaps the last, then pieces,
  // one at a time, each after the `done` of the one before. The last one ends the answer.
  virtual void BeginStream(HttpResponse head, bool is_last, Callback done) = 0;
  virtual void Write(std::string piece, Callback done) = 0;
  virtual void WriteLast(std::string piece, Callback done) = 0;
  // Sent between two pieces whenever there was none for so long.
  virtual void SetIdlePiece(std::string piece, absl::Duration silence) = 0;
  // Ends the connection in the middle of the answer, so that nobody takes it for whole.
  virtual void Abort() = 0;

  // Runs when the client has gone, or has been given up, before the answer was written.
  virtual void OnGone(Callback gone) = 0;
};

// Answers now, or keeps the exchange and answers later. Runs on the listener's thread and must not
// block. What it throws becomes an answer with status 500.
using HttpHandler = std::function<void(const std::shared_ptr<HttpExchange>&)>;

}  // namespace tessera

#endif  // TESSERA_SERVER_HTTP_HTTP_EXCHANGE_H_
