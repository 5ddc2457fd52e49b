// Bytes of a connection to requests, without the connection.
#ifndef TESSERA_SERVER_HTTP_REQUEST_READER_H_
#define TESSERA_SERVER_HTTP_REQUEST_READER_H_

#include <cstddef>
#include <memory>
#include <string>

#include "server/http/http_message.h"
#include "server/http/request_head.h"

namespace tessera {

struct ReadLimits {
  HeadLimits head;
  size_t header_bytes = 32 << 10;  // request line and headers together
  size_t body_bytes = 4 << 20;
};

// Reads one request after the other. Not thread-safe.
class RequestReader {
 public:
  enum class State {
    kHead,     // the head is not complete; nothing of it may be there yet
    kBody,     // the head is read, the body is not complete
    kDone,     // TakeRequest() gives the request
    kRefused,  // refusal() says why; nothing can be read any more
  };

  explicit RequestReader(const ReadLimits& limits);
  ~RequestReader();

  // Takes what belongs to the request from the front of `*bytes` and returns the new state. Called
  // again when more bytes have been appended. The work is linear in the number of all bytes.
  State Advance(std::string* bytes);
  State state() const { return state_; }

  const HttpRequest& request() const { return request_; }  // from kBody on, without the body
  const HttpRefusal& refusal() const { return refusal_; }
  // The client wants to hear "100 Continue" before it sends the body.
  bool ExpectsContinue() const;
  // Whether another request may follow on the connection.
  bool keep_alive() const;

  // In kDone: the request; the next one begins.
  HttpRequest TakeRequest();

 private:
  struct BodyParser;

  State ReadHead(std::string* bytes);
  State ReadBody(std::string* bytes);
  State Refuse(int status, std::string message);

  const ReadLimits limits_;
  State state_ = State::kHead;
  size_t scanned_ = 0;  // of an incomplete head
  HttpRequest request_;
  HttpRefusal refusal_;
  std::unique_ptr<BodyParser> parser_;
};

}  // namespace tessera

#endif  // TESSERA_SERVER_HTTP_REQUEST_READER_H_
