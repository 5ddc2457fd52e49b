#include "server/http/request_reader.h"

#include <algorithm>
#include <boost/asio/buffer.hpp>
#include <boost/beast/http/parser.hpp>
#include <boost/beast/http/string_body.hpp>
#include <limits>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

namespace tessera {
namespace {

namespace http = boost::beast::http;

constexpr std::string_view kHeadEnd = "\r\n\r\n";
// Of a line between chunks, or of the trailer: nobody needs more.
constexpr size_t kMaxChunkLineBytes = 4 << 10;
// The shortest end of a chunked body, "0 CR LF CR LF". Beast's parser takes what comes of it in
// pieces for impossible, by an assertion that ends the process.
constexpr size_t kLastChunkBytes = 5;

}  // namespace

// Beast's parser reads the head again, for the framing, and the body.
struct RequestReader::BodyParser {
  explicit BodyParser(size_t body_bytes) {
    parser.header_limit(std::numeric_limits<uint32_t>::max());
    parser.body_limit(body_bytes);
  }
  http::request_parser<http::string_body> parser;
};

RequestReader::RequestReader(const ReadLimits& limits) : limits_(limits) {}
RequestReader::~RequestReader() = default;

RequestReader::State RequestReader::Advance(std::string* bytes) {
  if (state_ == State::kHead) state_ = ReadHead(bytes);
  if (state_ == State::kBody) state_ = ReadBody(bytes);
  return state_;
}

RequestReader::State RequestReader::Refuse(int status, std::string message) {
  refusal_ = {status, std::move(message)};
  return state_ = State::kRefused;
}

RequestReader::State RequestReader::ReadHead(std::string* bytes) {
  // Some clients end a body with a line end that does not belong to it (RFC 9112, section 2.2).
  if (scanned_ == 0) {
    bytes->erase(0, std::min(bytes->find_first_not_of("\r\n"), bytes->size()));
  }
  const size_t from = scanned_ < kHeadEnd.size() ? 0 : scanned_ - kHeadEnd.size();
  const size_t end = bytes->find(kHeadEnd, from);
  // A line feed alone ends no line; waiting for what follows would be in vain. What stands behind
  // the head is not its business.
  for (size_t i = scanned_; i < std::min(end, bytes->size()); ++i) {
    if ((*bytes)[i] == '\n' && (i == 0 || (*bytes)[i - 1] != '\r')) {
      return Refuse(400, "lines must end with CR LF");
    }
  }
  scanned_ = bytes->size();
  const size_t size = end == std::string::npos ? bytes->size() : end + kHeadEnd.size();
  if (size > limits_.header_bytes) {
    const bool in_target = bytes->find('\n') > limits_.header_bytes;
    return Refuse(in_target ? 414 : 431,
                  absl::StrCat("the request head has more than ", limits_.header_bytes, " bytes"));
  }
  if (end == std::string::npos) {
    if (std::min(bytes->find('\n'), bytes->size()) > limits_.head.target_bytes + 64) {
      return Refuse(414, absl::StrCat("the request target has more than ",
                                      limits_.head.target_bytes, " bytes"));
    }
    return State::kHead;
  }
  const std::string_view head = std::string_view(*bytes).substr(0, size);
  if (auto refusal = ReadRequestHead(head, limits_.head, &request_)) {
    return Refuse(refusal->status, std::move(refusal->message));
  }
  parser_ = std::make_unique<BodyParser>(limits_.body_bytes);
  boost::system::error_code error;
  const size_t used = parser_->parser.put(boost::asio::buffer(head), error);
  if (error == http::error::body_limit) {
    return Refuse(413, absl::StrCat("the body has ", std::string(request_.Header("content-length")),
                                    " bytes; at most ", limits_.body_bytes, " are allowed"));
  }
  if (error || used != size) return Refuse(400, "malformed request head");
  bytes->erase(0, size);
  scanned_ = 0;
  if (!request_.Header("expect").empty() && !ExpectsContinue()) {
    return Refuse(417, "the only expectation is 100-continue");
  }
  return State::kBody;
}

RequestReader::State RequestReader::ReadBody(std::string* bytes) {
  auto& parser = parser_->parser;
  size_t used = 0;
  boost::system::error_code error;
  const auto may_be_part_of_last_chunk = [&] {
    return parser.chunked() && bytes->size() - used < kLastChunkBytes && (*bytes)[used] == '0';
  };
  while (!parser.is_done() && used < bytes->size() && !error && !may_be_part_of_last_chunk()) {
    const size_t taken =
        parser.put(boost::asio::buffer(bytes->data() + used, bytes->size() - used), error);
    used += taken;
    if (taken == 0) break;
  }
  bytes->erase(0, used);
  if (error == http::error::body_limit) {
    return Refuse(413, absl::StrCat("the body has more than ", limits_.body_bytes, " bytes"));
  }
  if (error && error != http::error::need_more) return Refuse(400, "malformed chunked body");
  if (!parser.is_done()) {
    if (bytes->size() > kMaxChunkLineBytes) return Refuse(400, "a chunk's line is too long");
    return State::kBody;
  }
  request_.body = std::move(parser.get().body());
  return State::kDone;
}

bool RequestReader::ExpectsContinue() const {
  const std::string expected(request_.Header("expect"));
  return absl::EqualsIgnoreCase(expected, "100-continue") && !request_.is_http_1_0;
}

bool RequestReader::keep_alive() const {
  return state_ != State::kRefused && parser_ != nullptr && parser_->parser.keep_alive();
}

HttpRequest RequestReader::TakeRequest() {
  HttpRequest taken = std::move(request_);
  request_ = {};
  parser_.reset();
  state_ = State::kHead;
  return taken;
}

}  // namespace tessera
