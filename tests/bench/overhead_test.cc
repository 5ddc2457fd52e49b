#include "tests/bench/overhead.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <thread>

#include "tests/bench/http2_client.h"
#include "tests/bench/server_process.h"

namespace tessera {
namespace {

using ::testing::HasSubstr;

RuntimeOptions Serving(const std::string& model_dir) {
  RuntimeOptions options{.token_ids_suffice = true};
  options.engine.model.model_dir = model_dir;
  return options;
}

// The first test, while this process has no other thread.
TEST(OverheadTest, MeasuresAServerOfItsOwn) {
  constexpr size_t kRequests = 10;
  const auto result =
      MeasureOverhead({.runtime = Serving(TESSERA_NANO_MODEL), .num_requests = kRequests});
  ASSERT_TRUE(result.ok()) << result.status();
  for (const auto* values : {&result->at_socket, &result->at_client, &result->steps,
                             &result->empty_calls, &result->empty_calls_after_steps}) {
    EXPECT_EQ(values->size(), kRequests);
    EXPECT_GT(*std::min_element(values->begin(), values->end()), 0);
    EXPECT_LT(*std::max_element(values->begin(), values->end()), 10);
  }
  EXPECT_EQ(result->per_token.size(), 1U);
}

TEST(OverheadTest, SaysWhyThereIsNoServer) {
  const auto result = MeasureOverhead({.runtime = Serving("/no/such/model")});
  EXPECT_THAT(std::string(result.status().message()), HasSubstr("/no/such/model does not exist"));
}

// Listens on a free loopback port, takes one connection and answers with `bytes`, whatever it
// hears.
class OneAnswer {
 public:
  explicit OneAnswer(std::string bytes) : listener_(socket(AF_INET, SOCK_STREAM, 0)) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof(address);
    EXPECT_EQ(bind(listener_, reinterpret_cast<sockaddr*>(&address), size), 0);
    EXPECT_EQ(listen(listener_, 1), 0);
    EXPECT_EQ(getsockname(listener_, reinterpret_cast<sockaddr*>(&address), &size), 0);
    port_ = ntohs(address.sin_port);
    thread_ = std::thread([this, bytes = std::move(bytes)] {
      const int peer = accept(listener_, nullptr, nullptr);
      EXPECT_EQ(write(peer, bytes.data(), bytes.size()), static_cast<ssize_t>(bytes.size()));
      shutdown(peer, SHUT_WR);
      char heard[1024];
      while (read(peer, heard, sizeof(heard)) > 0) {
      }
      close(peer);
    });
  }
  ~OneAnswer() {
    thread_.join();
    close(listener_);
  }
  int32_t port() const { return port_; }

 private:
  const int listener_;
  int32_t port_ = 0;
  std::thread thread_;
};

absl::Status AskServerThatSays(const std::string& bytes) {
  const OneAnswer server(bytes);
  const auto client = Http2Client::Connect(server.port());
  if (!client.ok()) return client.status();
  return (*client)->Call("/a.B/C", "request").status();
}

std::string Frame(char type, char flags, const std::string& payload) {
  std::string frame = {0, 0, static_cast<char>(payload.size()), type, flags, 0, 0, 0, type != 4};
  return frame + payload;
}

TEST(Http2ClientTest, TellsWhyACallHasNoAnswer) {
  const std::string settings = Frame(4, 0, "");
  const std::string ok = Frame(1, 4, "\x88");  // :status 200
  const auto data = [](const std::string& body) { return Frame(0, 1, body); };
  const auto expect = [](const std::string& bytes, const std::string& reason) {
    const absl::Status status = AskServerThatSays(bytes);
    EXPECT_TRUE(absl::IsUnavailable(status)) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr(reason));
  };
  expect("", "has closed the connection");
  expect("HTTP/1.1 400 Bad Request\r\n\r\n", "HTTP/2");
  expect(settings + ok + data(""), "without an answer");
  expect(settings + ok + data(std::string("\0\0\0", 3)), "ends inside a message");
  expect(settings + ok + data(std::string("\0\0\0\0\2x", 6)), "ends inside a message");
  expect(settings + ok + data(std::string("\1\0\0\0\1x", 6)), "compressed");
  expect(settings + Frame(3, 0, std::string("\0\0\0\7", 4)), "broken off");
  const absl::Status answered =
      AskServerThatSays(settings + ok + data(std::string("\0\0\0\0\1x", 6)));
  EXPECT_TRUE(answered.ok()) << answered;
}

}  // namespace
}  // namespace tessera
