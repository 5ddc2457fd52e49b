#include "server/http/openai/api.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "kernels/core/monotonic_time.h"
#include "server/http/http_error.h"
#include "server/http/http_server.h"
#include "server/http/openai/api_error.h"
#include "server/http/openai/json_shape.h"
#include "server/retry_delay.h"
#include "tests/server/fake_engine.h"
#include "tests/server/fake_model.h"
#include "tests/server/http/raw_client.h"

namespace tessera {
namespace {

using ::testing::EndsWith;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;

// The API in front of an engine that echoes its prompt.
class ApiFixture {
 public:
  explicit ApiFixture(FakeEngineOptions options = {}, ServiceLimits limits = {})
      : model_(FakeServedModel()),
        engine_(options),
        context_(&model_, &engine_, &metrics_, EngineOptions{}, limits),
        handler_({.healthy = [] { return absl::OkStatus(); },
                  .metrics = [this] { return metrics_.Render(); }}) {
    auto server = HttpServer::Start(
        {}, [this](const std::shared_ptr<HttpExchange>& exchange) { handler_.Handle(exchange); });
    EXPECT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
  }
  ~ApiFixture() {
    handler_.Serve(nullptr);
    server_->Shutdown(absl::ZeroDuration());
  }

  void Serve() { handler_.Serve(&context_); }
  RawClient Connect() const { return RawClient(server_->port()); }
  static std::string Post(const std::string& path, const std::string& json) {
    return absl::StrCat("POST ", path, " HTTP/1.1\r\nHost: h\r\nConnection: close\r\n",
                        "Content-Length: ", json.size(), "\r\n\r\n", json);
  }
  std::string Ask(const std::string& path, const std::string& json) const {
    RawClient client = Connect();
    client.Send(Post(path, json));
    return client.ReadAll();
  }
  FakeEngine& engine() { return engine_; }
  InferenceContext& context() { return context_; }
  std::string Page() const { return metrics_.Render(); }

 private:
  ServedModel model_;
  MetricsRecorder metrics_;
  FakeEngine engine_;
  InferenceContext context_;
  ApiHandler handler_;
  std::unique_ptr<HttpServer> server_;
};

constexpr char kCompletions[] = "/v1/completions";

TEST(ApiTest, IsUnavailableUntilTheModelIsThere) {
  ApiFixture api;
  const std::string refused = api.Ask(kCompletions, R"({"prompt":"abc"})");
  EXPECT_THAT(refused, StartsWith("HTTP/1.1 503 "));
  EXPECT_THAT(refused, HasSubstr("Retry-After: "));
  api.Serve();
  EXPECT_THAT(api.Ask(kCompletions, R"({"prompt":"abc","max_tokens":4})"),
              HasSubstr(R"("text":"abca")"));
}

TEST(ApiTest, ThePageNeedsNoModel) {
  ApiFixture api;
  const auto get = [&api](const std::string& path) {
    RawClient client = api.Connect();
    client.Send(absl::StrCat("GET ", path, " HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"));
    return client.ReadAll();
  };
  const std::string page = get("/");
  EXPECT_THAT(page, StartsWith("HTTP/1.1 200"));
  EXPECT_THAT(page, HasSubstr("Content-Security-Policy: default-src 'none'; script-src 'sha256-"));
  EXPECT_THAT(page, HasSubstr("<title>Tessera</title>"));
  EXPECT_THAT(page, Not(HasSubstr("/*STYLE*/")));
  EXPECT_THAT(page, Not(HasSubstr("/*SCRIPT*/")));
  EXPECT_THAT(get("/metrics"), StartsWith("HTTP/1.1 503"));
  api.Serve();
  EXPECT_THAT(get("/metrics"), HasSubstr("tessera_build_info"));
}

TEST(ApiTest, LargeBodiesAreReadByWorkersWithTheSameResult) {
  ApiFixture api;
  api.Serve();
  const std::string padding(3 * CallWorkers::kSmallCallBytes, ' ');
  EXPECT_THAT(api.Ask(kCompletions, absl::StrCat(R"({"prompt":"abc","max_tokens":2})", padding)),
              HasSubstr(R"("text":"ab")"));
  EXPECT_THAT(api.Ask(kCompletions, absl::StrCat(R"({"prompt":5})", padding)),
              ::testing::AllOf(StartsWith("HTTP/1.1 400 "), HasSubstr(R"("param":"prompt")")));
  EXPECT_THAT(api.Ask("/tokenize", absl::StrCat(R"({"prompt":"abc"})", padding)),
              HasSubstr(R"("tokens":[97,98,99])"));
}

TEST(ApiTest, ARefusalSaysWhenToComeBack) {
  const absl::Status status =
      WithRetryDelay(absl::ResourceExhaustedError("full"), absl::Milliseconds(2500));
  EXPECT_THAT(
      HttpErrorResponse(ApiErrorOf(status, {})).headers,
      ::testing::Contains(::testing::AllOf(::testing::Field(&HttpHeader::name, "Retry-After"),
                                           ::testing::Field(&HttpHeader::value, "3"))));
}

TEST(ApiTest, AFullEngineIsAStatusAlsoForAStream) {
  ApiFixture api({.max_running = 0});
  api.Serve();
  const std::string answer = api.Ask(kCompletions, R"({"prompt":"abc","stream":true})");
  EXPECT_THAT(answer, StartsWith("HTTP/1.1 429 "));
  EXPECT_THAT(answer, HasSubstr("Retry-After: 1\r\n"));
  EXPECT_THAT(answer, EndsWith("}}"));
}

TEST(ApiTest, AnErrorBehindTheFirstTokenIsAnEvent) {
  ApiFixture api({.step = absl::Milliseconds(5)});
  api.Serve();
  RawClient client = api.Connect();
  client.Send(api.Post(kCompletions,
                       R"({"prompt":"abc","max_tokens":4000,"stream":true,"request_id":"mine"})"));
  EXPECT_THAT(client.ReadUntil("\"text\""), StartsWith("HTTP/1.1 200 "));
  const auto found = api.context().active.Abort("mine");
  ASSERT_TRUE(found && found->engine_id);
  api.engine().Cancel(*found->engine_id, absl::UnavailableError("going away"));
  const std::string rest = client.ReadAll();
  EXPECT_THAT(rest, HasSubstr("data: {\"error\":{\"message\":\"going away\""));
  EXPECT_THAT(rest, EndsWith("data: [DONE]\n\n\r\n0\r\n\r\n"));
}

TEST(ApiTest, AClientThatDoesNotReadIsGivenUp) {
  ApiFixture api({.step = absl::Microseconds(200), .bytes_per_token = 64 << 10});
  api.Serve();
  const RawClient client = api.Connect();
  client.Send(api.Post(kCompletions, R"({"prompt":"abc","max_tokens":4000,"stream":true})"));
  while (api.engine().num_submitted() == 0) absl::SleepFor(absl::Milliseconds(1));
  const std::string given_up = "tessera_slow_reader_evictions_total 1\n";
  const absl::Time deadline = MonotonicNow() + absl::Seconds(20);
  bool is_given_up = false;
  while (!is_given_up && MonotonicNow() < deadline) {
    absl::SleepFor(absl::Milliseconds(10));
    is_given_up = absl::StrContains(api.Page(), given_up);
  }
  EXPECT_TRUE(is_given_up);
  EXPECT_TRUE(api.engine().WaitIdle());
}

TEST(ApiTest, ClientsMayGoAtAnyMoment) {
  const uint64_t seed = std::random_device{}();
  SCOPED_TRACE(absl::StrCat("seed ", seed));
  ApiFixture api({.step = absl::Microseconds(200)});
  api.Serve();
  std::vector<std::thread> threads;
  for (uint64_t t = 0; t < 4; ++t) {
    threads.emplace_back([&api, random = std::mt19937_64(seed + t)]() mutable {
      for (int round = 0; round < 30; ++round) {
        RawClient client = api.Connect();
        const bool is_large = random() % 2 == 0;
        client.Send(api.Post(
            kCompletions,
            absl::StrCat(R"({"prompt":["abc","de"],"n":2,"max_tokens":20,"stream":)",
                         random() % 2 == 0 ? "true" : "false", "}",
                         std::string(is_large ? 2 * CallWorkers::kSmallCallBytes : 0, ' '))));
        if (random() % 4 == 0) {
          EXPECT_THAT(client.ReadAll(), StartsWith("HTTP/1.1 200 "));
        } else {
          absl::SleepFor(absl::Microseconds(random() % 4000));
        }
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_TRUE(api.engine().WaitIdle());
  EXPECT_TRUE(api.context().gate.AwaitNoCalls(absl::Seconds(10)));
  EXPECT_EQ(api.context().active.size(), 0);
}

TEST(ApiTest, TheListenerMayStopInTheMiddle) {
  for (int round = 0; round < 10; ++round) {
    ApiFixture api({.step = absl::Milliseconds(1)});
    api.Serve();
    const RawClient client = api.Connect();
    client.Send(api.Post(kCompletions, R"({"prompt":"abc","max_tokens":4000,"stream":true})"));
    absl::SleepFor(absl::Milliseconds(round));
  }
}

TEST(JsonShapeTest, CountsWhatIsNotInStrings) {
  const JsonLimits limits{.depth = 3, .containers = 4, .values = 6};
  EXPECT_TRUE(CheckJsonShape(R"({"a":[[1]]})", limits).ok());
  EXPECT_FALSE(CheckJsonShape(R"({"a":[[[1]]]})", limits).ok());
  EXPECT_TRUE(CheckJsonShape(R"({"a":"[[[[[[,,,,,,,\"[["})", limits).ok());
  EXPECT_FALSE(CheckJsonShape("[[],[],[],[]]", limits).ok());
  EXPECT_FALSE(CheckJsonShape("[1,2,3,4,5,6]", limits).ok());
  EXPECT_TRUE(CheckJsonShape("\"\\", limits).ok());
}

}  // namespace
}  // namespace tessera
