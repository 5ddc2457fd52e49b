#include "server/http/request_reader.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"

namespace tessera {
namespace {

using State = RequestReader::State;
using ::testing::HasSubstr;

// The status of the refusal, 200 for a whole request, 0 for an incomplete one.
int StatusOf(std::string bytes, const ReadLimits& limits = {}) {
  RequestReader reader(limits);
  const State state = reader.Advance(&bytes);
  if (state == State::kRefused) return reader.refusal().status;
  return state == State::kDone ? 200 : 0;
}

std::string Post(const std::string& headers, const std::string& body) {
  return absl::StrCat("POST /x HTTP/1.1\r\nHost: h\r\n", headers, "\r\n", body);
}

TEST(RequestReaderTest, ReadsMethodTargetHeadersAndBody) {
  std::string bytes =
      "\r\nPOST /v1/x?a=b?c HTTP/1.1\r\nHost: h\r\nX-Thing:  two words \t\r\n"
      "Content-Length: 3\r\n\r\nabcGET";
  RequestReader reader({});
  ASSERT_EQ(reader.Advance(&bytes), State::kDone);
  EXPECT_TRUE(reader.keep_alive());
  const HttpRequest request = reader.TakeRequest();
  EXPECT_EQ(request.method, "POST");
  EXPECT_EQ(request.path, "/v1/x");
  EXPECT_EQ(request.query, "a=b?c");
  EXPECT_EQ(request.Header("x-thing"), "two words");
  EXPECT_EQ(request.body, "abc");
  EXPECT_EQ(bytes, "GET");
  EXPECT_EQ(reader.Advance(&bytes), State::kHead);
}

// JSON that people wrote has lines, and comes together with its head.
TEST(RequestReaderTest, LineFeedsOfABodyAreItsOwn) {
  EXPECT_EQ(StatusOf(Post("Content-Length: 12\r\n", "{\n\"a\": 1\n}\n\n")), 200);
  EXPECT_EQ(StatusOf(Post("X: 1\nContent-Length: 0\r\n", "")), 400);
}

TEST(RequestReaderTest, AnEmptyChunkedBodyMayComeInPieces) {
  const std::string all = Post("Transfer-Encoding: chunked\r\n", "0\r\n\r\n");
  for (size_t piece = 1; piece < 6; ++piece) {
    RequestReader reader({});
    std::string pending;
    State state = State::kHead;
    for (size_t at = 0; at < all.size(); at += piece) {
      pending += all.substr(at, piece);
      state = reader.Advance(&pending);
    }
    EXPECT_EQ(state, State::kDone) << piece;
    EXPECT_EQ(reader.TakeRequest().body, "");
  }
}

TEST(RequestReaderTest, BytesMayComeInAnyPieces) {
  const uint64_t seed = std::random_device{}();
  SCOPED_TRACE(absl::StrCat("seed ", seed));
  std::mt19937_64 random(seed);
  const std::string first = Post("Transfer-Encoding: chunked\r\n",
                                 "3;ext=1\r\nabc\r\n10\r\n0123456789abcdef\r\n0\r\nT: 1\r\n\r\n");
  const std::string second = Post("Content-Length: 5\r\n", "hello");
  for (int round = 0; round < 200; ++round) {
    const std::string all = absl::StrCat(first, second, first);
    RequestReader reader({});
    std::string pending;
    std::vector<std::string> bodies;
    for (size_t at = 0; at < all.size();) {
      const size_t count = 1 + random() % 9;
      pending += all.substr(at, count);
      at += count;
      while (reader.Advance(&pending) == State::kDone) bodies.push_back(reader.TakeRequest().body);
      ASSERT_NE(reader.state(), State::kRefused) << reader.refusal().message;
    }
    EXPECT_THAT(bodies,
                ::testing::ElementsAre("abc0123456789abcdef", "hello", "abc0123456789abcdef"));
  }
}

// Whatever another program on the way might read differently.
TEST(RequestReaderTest, RefusesWhatCouldHideARequest) {
  const std::string chunked = "Transfer-Encoding: chunked\r\n";
  const std::string refused[] = {
      Post("Content-Length: 3\r\n" + chunked, "0\r\n\r\n"),
      Post(chunked + "Content-Length: 3\r\n", "0\r\n\r\n"),
      Post("Content-Length: 3\r\nContent-Length: 3\r\n", "abc"),
      Post("Content-Length: 3, 3\r\n", "abc"),
      Post("Content-Length: +3\r\n", "abc"),
      Post("Content-Length: 0x3\r\n", "abc"),
      Post("Content-Length: -1\r\n", "abc"),
      Post("Content-Length: 3 3\r\n", "abc"),
      Post("Content-Length:\r\n", "abc"),
      Post("Content-Length: 99999999999999999999\r\n", "abc"),
      Post("Transfer-Encoding: gzip, chunked\r\n", "0\r\n\r\n"),
      Post("Transfer-Encoding: chunked, chunked\r\n", "0\r\n\r\n"),
      Post("Transfer-Encoding: identity\r\n", ""),
      Post("Transfer-Encoding: xchunked\r\n", ""),
      Post(chunked + chunked, "0\r\n\r\n"),
      Post("Transfer-Encoding : chunked\r\n", "0\r\n\r\n"),
      Post("Content-Length : 3\r\n", "abc"),
      Post("X: a\r\n b\r\n", ""),
      Post("X: a\r\n\tb\r\n", ""),
      Post("X\r\n", ""),
      Post(": x\r\n", ""),
      Post(std::string("X: a\0b\r\n", 8), ""),
      Post("X: a\x7F\r\n", ""),
      Post("X: a\rb\r\n", ""),
      Post("X: a\nContent-Length: 3\r\n", ""),
      Post("Host: other\r\n", ""),
      "GET / HTTP/1.1\r\n\r\n",
      "GET / HTTP/1.1\nHost: h\n\n",
      "GET  / HTTP/1.1\r\nHost: h\r\n\r\n",
      "GET /a b HTTP/1.1\r\nHost: h\r\n\r\n",
      "GET /\r\nHost: h\r\n\r\n",
      "GET x HTTP/1.1\r\nHost: h\r\n\r\n",
      "G@T / HTTP/1.1\r\nHost: h\r\n\r\n",
      " GET / HTTP/1.1\r\nHost: h\r\n\r\n",
      "POST / HTTP/1.0\r\n" + chunked + "\r\n0\r\n\r\n",
      "\x16\x03\x01\x02\n",
      Post(chunked, "x\r\n"),
      Post(chunked, "3\r\nabcd\r\n0\r\n\r\n"),
      Post(chunked, "3 \n\r\nabc\r\n0\r\n\r\n"),
      Post(chunked, "-3\r\nabc\r\n0\r\n\r\n"),
      Post(chunked, "ffffffffffffffffff\r\nabc\r\n0\r\n\r\n"),
      Post(chunked, "1;" + std::string(5000, 'x')),
  };
  for (const std::string& bytes : refused) EXPECT_EQ(StatusOf(bytes), 400) << bytes;
}

TEST(RequestReaderTest, LimitsHaveTheirOwnStatus) {
  const ReadLimits limits{.body_bytes = 10};
  EXPECT_EQ(StatusOf(Post("Content-Length: 10\r\n", "0123456789"), limits), 200);
  EXPECT_EQ(StatusOf(Post("Content-Length: 11\r\n", ""), limits), 413);
  EXPECT_EQ(StatusOf(Post("Transfer-Encoding: chunked\r\n", "b\r\n0123456789a\r\n"), limits), 413);
  const std::string target(8 << 10, 'a');
  EXPECT_EQ(StatusOf("GET /" + target.substr(1) + " HTTP/1.1\r\nHost: h\r\n\r\n"), 200);
  EXPECT_EQ(StatusOf("GET /" + target + " HTTP/1.1\r\nHost: h\r\n\r\n"), 414);
  EXPECT_EQ(StatusOf("GET /" + target + target), 414);
  EXPECT_EQ(StatusOf(Post("X: " + std::string(33 << 10, 'a') + "\r\n", "")), 431);
  EXPECT_EQ(StatusOf("GET / HTTP/1.1\r\nX: " + std::string(33 << 10, 'a')), 431);
  std::string many;
  for (int i = 0; i < 101; ++i) absl::StrAppend(&many, "X: 1\r\n");
  EXPECT_EQ(StatusOf(Post(many, "")), 431);
  EXPECT_EQ(StatusOf("GET / HTTP/2.0\r\nHost: h\r\n\r\n"), 505);
  EXPECT_EQ(StatusOf("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), 505);
  EXPECT_EQ(StatusOf(Post("Expect: a-miracle\r\n", "")), 417);
}

TEST(RequestReaderTest, KnowsWhetherAnotherRequestMayFollow) {
  const auto keeps = [](std::string bytes) {
    RequestReader reader({});
    EXPECT_EQ(reader.Advance(&bytes), State::kDone);
    return reader.keep_alive();
  };
  EXPECT_TRUE(keeps("GET / HTTP/1.1\r\nHost: h\r\n\r\n"));
  EXPECT_FALSE(keeps("GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"));
  EXPECT_FALSE(keeps("GET / HTTP/1.0\r\n\r\n"));
  EXPECT_TRUE(keeps("GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n"));
}

TEST(RequestReaderTest, AbsoluteTargetsAreTheirPaths) {
  std::string bytes = "GET http://h:1/a?b HTTP/1.1\r\nHost: h\r\n\r\n";
  RequestReader reader({});
  ASSERT_EQ(reader.Advance(&bytes), State::kDone);
  EXPECT_EQ(reader.TakeRequest().path, "/a");
}

}  // namespace
}  // namespace tessera
