#include "server/http/http_server.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include <atomic>
#include <fstream>
#include <memory>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "server/http/probe_pages.h"
#include "tests/server/http/raw_client.h"

namespace tessera {
namespace {

using ::testing::EndsWith;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;

// /echo gives the body back; /wait never answers and tells when the client goes; /pieces streams.
class HttpServerTest : public ::testing::Test {
 protected:
  void Serve(HttpServerOptions options) {
    options.option = "--test-port";
    auto server = HttpServer::Start(
        options, [this](const std::shared_ptr<HttpExchange>& exchange) { Handle(exchange); });
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
  }
  // Short, so that a test can see them pass.
  static HttpServerOptions Impatient() {
    return {.timeouts = {.head = absl::Milliseconds(150),
                         .body = absl::Milliseconds(150),
                         .idle = absl::Milliseconds(300),
                         .write = absl::Milliseconds(150)}};
  }

  void Handle(const std::shared_ptr<HttpExchange>& exchange) {
    const std::string path = exchange->request().path;
    if (path == "/wait") {
      ++waiting_;
      return exchange->OnGone([this, exchange] { ++gone_; });
    }
    if (path == "/throw") throw std::runtime_error("thrown");
    if (path == "/pieces") {
      exchange->BeginStream({.content_type = "text/plain", .body = "one"}, false, [exchange] {
        exchange->Write("two", [exchange] { exchange->WriteLast("three", [] {}); });
      });
      return;
    }
    if (path == "/flood") return Flood(exchange);
    if (path == "/later") {
      std::thread answer(
          [exchange] { exchange->Post([exchange] { exchange->Respond({.body = "late"}); }); });
      return answer.join();
    }
    exchange->Respond({.content_type = "text/plain", .body = exchange->TakeBody()});
  }
  // More than a client that does not read can take.
  void Flood(const std::shared_ptr<HttpExchange>& exchange) {
    exchange->OnGone([this] { ++gone_; });
    exchange->BeginStream({.body = std::string(64 << 20, 'x')}, false, [] {});
  }

  RawClient Connect() const { return RawClient(server_->port()); }
  static bool Await(const std::function<bool()>& condition) {
    for (int i = 0; i < 1000 && !condition(); ++i) absl::SleepFor(absl::Milliseconds(10));
    return condition();
  }

  std::atomic<int> waiting_ = 0;
  std::atomic<int> gone_ = 0;
  std::unique_ptr<HttpServer> server_;
};

constexpr char kGet[] = "GET /echo HTTP/1.1\r\nHost: h\r\n\r\n";

TEST_F(HttpServerTest, AnswersOneRequestAfterTheOther) {
  Serve({});
  RawClient client = Connect();
  for (const char* body : {"a", "bc"}) {
    client.Send(absl::StrCat("POST /echo HTTP/1.1\r\nHost: h\r\nX-Request-Id: mine\r\n",
                             "Content-Length: ", std::string(body).size(), "\r\n\r\n", body));
    const std::string answer = client.ReadUntil(absl::StrCat("\r\n\r\n", body));
    EXPECT_THAT(answer, StartsWith("HTTP/1.1 200 OK\r\n"));
    EXPECT_THAT(answer, HasSubstr("x-request-id: mine\r\n"));
    EXPECT_THAT(answer, Not(HasSubstr("Connection:")));
  }
}

TEST_F(HttpServerTest, PipelinedRequestsAreAnsweredInOrder) {
  Serve({});
  RawClient client = Connect();
  client.Send(
      "POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n\r\n1"
      "GET /pieces HTTP/1.1\r\nHost: h\r\n\r\n"
      "POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nConnection: close\r\n\r\n3");
  const std::string answers = client.ReadAll();
  EXPECT_TRUE(client.ended());
  EXPECT_THAT(answers, HasSubstr("\r\n\r\n1HTTP/1.1 200"));
  EXPECT_THAT(answers, HasSubstr("3\r\none\r\n3\r\ntwo\r\n5\r\nthree\r\n0\r\n\r\nHTTP/1.1 200"));
  EXPECT_THAT(answers, EndsWith("Connection: close\r\n\r\n3"));
}

// A client that ends its side hears what is answered at once, and has gone for what takes longer.
TEST_F(HttpServerTest, AClientThatSendsNothingMoreHasGone) {
  Serve({});
  RawClient client = Connect();
  client.Send(absl::StrCat(kGet, "GET /wait HTTP/1.1\r\nHost: h\r\n\r\n"));
  client.EndSending();
  EXPECT_THAT(client.ReadAll(), StartsWith("HTTP/1.1 200"));
  EXPECT_TRUE(Await([&] { return gone_ == 1; }));
}

TEST_F(HttpServerTest, OldClientsGetUnchunkedStreamsAndHeadsNoBody) {
  Serve({});
  RawClient old = Connect();
  old.Send("GET /pieces HTTP/1.0\r\n\r\n");
  const std::string answer = old.ReadAll();
  EXPECT_THAT(answer, EndsWith("\r\n\r\nonetwothree"));
  EXPECT_THAT(answer, HasSubstr("Connection: close\r\n"));
  EXPECT_THAT(answer, Not(HasSubstr("chunked")));
  RawClient head = Connect();
  head.Send("HEAD /echo HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\nConnection: close\r\n\r\nab");
  EXPECT_THAT(head.ReadAll(),
              ::testing::AllOf(HasSubstr("Content-Length: 2\r\n"), EndsWith("\r\n\r\n")));
}

TEST_F(HttpServerTest, AnswersMayComeFromOtherThreadsAndErrorsFromExceptions) {
  Serve({});
  RawClient client = Connect();
  client.Send("GET /later HTTP/1.1\r\nHost: h\r\n\r\n");
  EXPECT_THAT(client.ReadUntil("late"), EndsWith("late"));
  client.Send("GET /throw HTTP/1.1\r\nHost: h\r\n\r\n");
  EXPECT_THAT(client.ReadUntil("}}"), StartsWith("HTTP/1.1 500"));
  client.Send(
      "POST /echo HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n");
  EXPECT_EQ(client.ReadUntil("\r\n\r\n"), "HTTP/1.1 100 Continue\r\n\r\n");
  client.Send("ok");
  EXPECT_THAT(client.ReadUntil("\r\n\r\nok"), StartsWith("HTTP/1.1 200"));
}

TEST_F(HttpServerTest, RefusalsAreReadableAndEndTheConnection) {
  Serve({.limits = {.body_bytes = 1000}});
  RawClient client = Connect();
  // The client sends on while the answer is on its way to it.
  client.Send("POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: 1000000\r\n\r\n");
  client.Send(std::string(1000000, 'x'));
  const std::string answer = client.ReadAll();
  EXPECT_TRUE(client.ended());
  EXPECT_THAT(answer, StartsWith("HTTP/1.1 413 "));
  EXPECT_THAT(answer, HasSubstr("\"code\":413}}"));
  EXPECT_THAT(answer, HasSubstr("x-request-id: "));
}

TEST_F(HttpServerTest, TellsTheHandlerWhenTheClientHasGone) {
  Serve({});
  RawClient client = Connect();
  client.Send("GET /wait HTTP/1.1\r\nHost: h\r\n\r\n");
  EXPECT_TRUE(Await([&] { return waiting_ == 1; }));
  EXPECT_EQ(gone_, 0);
  client.Close();
  EXPECT_TRUE(Await([&] { return gone_ == 1; }));
  EXPECT_TRUE(Await([&] { return server_->num_connections() == 0; }));
}

TEST_F(HttpServerTest, SlowClientsAreGivenUp) {
  Serve(Impatient());
  RawClient silent = Connect();
  EXPECT_EQ(silent.ReadAll(), "");
  EXPECT_TRUE(silent.ended());
  RawClient slow_head = Connect();
  slow_head.Send("GET / HTTP/1.1\r\nHo");
  EXPECT_THAT(slow_head.ReadAll(), StartsWith("HTTP/1.1 408 "));
  RawClient slow_body = Connect();
  slow_body.Send("POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nab");
  EXPECT_THAT(slow_body.ReadAll(), StartsWith("HTTP/1.1 408 "));
  RawClient idle = Connect();
  idle.Send(kGet);
  EXPECT_THAT(idle.ReadAll(), StartsWith("HTTP/1.1 200"));
  EXPECT_TRUE(idle.ended());
  RawClient deaf = Connect();
  deaf.Send("GET /flood HTTP/1.1\r\nHost: h\r\n\r\n");
  EXPECT_TRUE(Await([&] { return gone_ == 1; }));
  EXPECT_TRUE(Await([&] { return server_->num_connections() == 0; }));
}

// Dripping bytes does not prolong the time for a head.
TEST_F(HttpServerTest, ATricklingHeadIsGivenUpInTime) {
  Serve(Impatient());
  RawClient client = Connect();
  const absl::Time begun = absl::Now();
  std::thread drip([&] {
    client.Send("GET / HTTP/1.1\r\nX: ");
    for (int i = 0; i < 5; ++i) {
      client.Send("a");
      absl::SleepFor(absl::Milliseconds(20));
    }
  });
  drip.join();
  EXPECT_THAT(client.ReadAll(), StartsWith("HTTP/1.1 408 "));
  EXPECT_GE(absl::Now() - begun, absl::Milliseconds(140));
}

TEST_F(HttpServerTest, SilentConnectionsMakeRoomAndBusyOnesDoNot) {
  Serve({.max_connections = 4});
  std::vector<std::unique_ptr<RawClient>> silent;
  for (int i = 0; i < 10; ++i) silent.push_back(std::make_unique<RawClient>(server_->port()));
  RawClient probe = Connect();
  probe.Send(kGet);
  EXPECT_THAT(probe.ReadUntil("\r\n\r\n"), StartsWith("HTTP/1.1 200"));
  EXPECT_EQ(silent.front()->ReadAll(), "");
  EXPECT_TRUE(silent.front()->ended());
  silent.clear();
  probe.Close();
  std::vector<std::unique_ptr<RawClient>> busy;
  for (int i = 0; i < 4; ++i) {
    busy.push_back(std::make_unique<RawClient>(server_->port()));
    busy.back()->Send("GET /wait HTTP/1.1\r\nHost: h\r\n\r\n");
  }
  EXPECT_TRUE(Await([&] { return waiting_ == 4; }));
  RawClient extra = Connect();
  EXPECT_THAT(extra.ReadAll(), StartsWith("HTTP/1.1 503 "));
  EXPECT_EQ(gone_, 0);
}

TEST_F(HttpServerTest, BodiesBeingReceivedAreBoundedTogether) {
  Serve({.max_receiving_bytes = 100'000});
  RawClient first = Connect();
  first.Send("POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: 90001\r\n\r\n");
  first.Send(std::string(90'000, 'x'));
  RawClient second = Connect();
  second.Send("POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: 90000\r\n\r\n");
  second.Send(std::string(90'000, 'x'));
  EXPECT_THAT(second.ReadAll(), StartsWith("HTTP/1.1 503 "));
  first.Send("x");
  EXPECT_THAT(first.ReadUntil("\r\n\r\n"), StartsWith("HTTP/1.1 200"));
}

TEST_F(HttpServerTest, ShutdownWaitsForAnswersButNotForever) {
  Serve({});
  RawClient idle = Connect();
  idle.Send(kGet);
  idle.ReadUntil("\r\n\r\n");
  RawClient client = Connect();
  client.Send("GET /wait HTTP/1.1\r\nHost: h\r\n\r\n");
  EXPECT_TRUE(Await([&] { return waiting_ == 1; }));
  const absl::Time begun = absl::Now();
  server_->Shutdown(absl::Milliseconds(100));
  EXPECT_GE(absl::Now() - begun, absl::Milliseconds(90));
  EXPECT_EQ(gone_, 1);
  EXPECT_EQ(client.ReadAll(), "");
  EXPECT_EQ(idle.ReadAll(), "");
}

TEST_F(HttpServerTest, ListensOnUnixSocketsAndReplacesOnlyDeadOnes) {
  const std::string path = absl::StrCat(::testing::TempDir(), "/http-", getpid(), ".sock");
  Serve({.unix_path = path});
  RawClient client(path);
  client.Send(kGet);
  EXPECT_THAT(client.ReadUntil("\r\n\r\n"), StartsWith("HTTP/1.1 200"));
  EXPECT_EQ(server_->port(), 0);
  const auto second = HttpServer::Start({.unix_path = path}, [](const auto&) {});
  EXPECT_THAT(std::string(second.status().message()), HasSubstr("another program"));
  server_.reset();
  struct stat info = {};
  EXPECT_NE(stat(path.c_str(), &info), 0);
  std::ofstream(path) << "mine";
  const auto third = HttpServer::Start({.unix_path = path}, [](const auto&) {});
  EXPECT_THAT(std::string(third.status().message()), HasSubstr("no socket"));
  unlink(path.c_str());
}

TEST_F(HttpServerTest, IdleTakesNoProcessorTime) {
  Serve({});
  RawClient client = Connect();
  client.Send(kGet);
  client.ReadUntil("\r\n\r\n");
  const auto spent = [] {
    rusage usage = {};
    getrusage(RUSAGE_SELF, &usage);
    return absl::DurationFromTimeval(usage.ru_utime) + absl::DurationFromTimeval(usage.ru_stime);
  };
  const absl::Duration before = spent();
  absl::SleepFor(absl::Milliseconds(500));
  EXPECT_LT(spent() - before, absl::Milliseconds(20));
}

TEST_F(HttpServerTest, ATakenPortIsNamed) {
  Serve({});
  const auto second =
      HttpServer::Start({.option = "--test-port", .port = server_->port()}, [](const auto&) {});
  ASSERT_FALSE(second.ok());
  EXPECT_THAT(std::string(second.status().message()), HasSubstr("--test-port"));
}

TEST(ProbePagesTest, ServesThreePages) {
  std::atomic<bool> ready = false;
  const auto server = HttpServer::Start(
      {},
      ProbeHandler(
          {.metrics = [] { return std::string("numbers 1\n"); },
           .healthy = [] { return absl::OkStatus(); },
           .ready = [&] { return ready ? absl::OkStatus() : absl::UnavailableError("loading"); }}));
  ASSERT_TRUE(server.ok()) << server.status();
  const auto ask = [&](const std::string& line) {
    RawClient client((*server)->port());
    client.Send(absl::StrCat(line, " HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"));
    return client.ReadAll();
  };
  EXPECT_THAT(ask("GET /metrics"), EndsWith("\r\n\r\nnumbers 1\n"));
  EXPECT_THAT(ask("GET /metrics"), HasSubstr("version=0.0.4"));
  EXPECT_THAT(ask("HEAD /metrics"),
              ::testing::AllOf(HasSubstr("Content-Length: 10\r\n"), EndsWith("\r\n\r\n")));
  EXPECT_THAT(ask("GET /healthz"), StartsWith("HTTP/1.1 200"));
  EXPECT_THAT(ask("GET /readyz"),
              ::testing::AllOf(StartsWith("HTTP/1.1 503"), EndsWith("loading\n")));
  ready = true;
  EXPECT_THAT(ask("GET /readyz"), StartsWith("HTTP/1.1 200"));
  EXPECT_THAT(ask("GET /other"), StartsWith("HTTP/1.1 404"));
  EXPECT_THAT(ask("POST /metrics"), HasSubstr("Allow: GET, HEAD\r\n"));
}

}  // namespace
}  // namespace tessera
