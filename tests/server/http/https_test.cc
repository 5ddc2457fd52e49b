// The listener of http_server_test.cc, within TLS.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/read.hpp>
#include <boost/asio/ssl/context.hpp>
#include <boost/asio/ssl/error.hpp>
#include <boost/asio/ssl/stream.hpp>
#include <boost/asio/write.hpp>
#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "server/access/server_tls.h"
#include "server/http/http_server.h"
#include "tests/server/access/test_certificate.h"
#include "tests/server/http/raw_client.h"

namespace tessera {
namespace {

namespace asio = boost::asio;
using ::testing::EndsWith;
using ::testing::HasSubstr;
using ::testing::StartsWith;

// Sends and reads bytes within TLS; trusts everybody.
class TlsClient {
 public:
  explicit TlsClient(int32_t port) {
    boost::system::error_code error;
    stream_.lowest_layer().connect({asio::ip::address_v4::loopback(), static_cast<uint16_t>(port)});
    stream_.handshake(asio::ssl::stream_base::client, error);
    EXPECT_FALSE(error) << error.message();
  }
  void Send(std::string_view text) {
    boost::system::error_code error;
    asio::write(stream_, asio::buffer(text), error);
  }
  std::string ReadUntil(std::string_view end) {
    std::string text;
    char buffer[4096];
    while (text.find(end) == std::string::npos && !error_) {
      text.append(buffer, stream_.read_some(asio::buffer(buffer), error_));
    }
    return text;
  }
  std::string ReadAll() { return ReadUntil("\xFF never sent"); }
  // The server has said that nothing follows: the answer is whole.
  bool ended_well() const { return error_ == asio::error::eof; }
  std::string Certificate() {
    X509* const shown = SSL_get1_peer_certificate(stream_.native_handle());
    BIO* const bio = BIO_new(BIO_s_mem());
    PEM_write_bio_X509(bio, shown);
    X509_free(shown);
    return PemOf(bio);
  }
  void Vanish() { stream_.lowest_layer().close(); }

 private:
  asio::io_context io_;
  asio::ssl::context context_{asio::ssl::context::tls_client};
  asio::ssl::stream<asio::ip::tcp::socket> stream_{io_, context_};
  boost::system::error_code error_;
};

class HttpsTest : public ::testing::Test {
 protected:
  void Serve(HttpServerOptions options) {
    auto tls = ServerTls::Start(files_.files());
    ASSERT_TRUE(tls.ok()) << tls.status();
    tls_ = *std::move(tls);
    options.tls = tls_.get();
    auto server = HttpServer::Start(
        options, [this](const std::shared_ptr<HttpExchange>& exchange) { Handle(exchange); });
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
  }
  void Handle(const std::shared_ptr<HttpExchange>& exchange) {
    if (exchange->request().path == "/wait") {
      return exchange->OnGone([this, exchange] { ++gone_; });
    }
    if (exchange->request().path == "/pieces") {
      exchange->BeginStream({.body = "one"}, false,
                            [exchange] { exchange->WriteLast("two", [] {}); });
      return;
    }
    exchange->Respond({.body = exchange->TakeBody()});
  }
  static bool Await(const std::function<bool()>& condition) {
    for (int i = 0; i < 1000 && !condition(); ++i) absl::SleepFor(absl::Milliseconds(10));
    return condition();
  }
  std::string Echo(TlsClient* client, const std::string& body) {
    client->Send(absl::StrCat("POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: ", body.size(),
                              "\r\n\r\n", body));
    return client->ReadUntil(absl::StrCat("\r\n\r\n", body));
  }

  TestTlsFiles files_;
  std::atomic<int> gone_ = 0;
  std::unique_ptr<ServerTls> tls_;
  std::unique_ptr<HttpServer> server_;
};

TEST_F(HttpsTest, AnswersAsWithoutTls) {
  Serve({});
  TlsClient client(server_->port());
  EXPECT_THAT(Echo(&client, "a"), StartsWith("HTTP/1.1 200 OK\r\n"));
  EXPECT_THAT(Echo(&client, std::string(100'000, 'b')), StartsWith("HTTP/1.1 200 OK\r\n"));
  client.Send("GET /pieces HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n");
  EXPECT_THAT(client.ReadAll(), EndsWith("3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n"));
  EXPECT_TRUE(client.ended_well());
}

// Only a goodbye within TLS tells who speaks HTTP/1.0 that nothing has been cut off.
TEST_F(HttpsTest, StreamsOfOldClientsEndWell) {
  Serve({});
  TlsClient old(server_->port());
  old.Send("GET /pieces HTTP/1.0\r\n\r\n");
  EXPECT_THAT(old.ReadAll(), EndsWith("\r\n\r\nonetwo"));
  EXPECT_TRUE(old.ended_well());
}

TEST_F(HttpsTest, ARefusalReachesAClientThatStillSends) {
  Serve({.limits = {.body_bytes = 1000}});
  TlsClient client(server_->port());
  client.Send("POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: 4000000\r\n\r\n");
  client.Send(std::string(4'000'000, 'x'));
  EXPECT_THAT(client.ReadAll(), StartsWith("HTTP/1.1 413 "));
}

TEST_F(HttpsTest, ContinuesAndNoticesClientsThatLeave) {
  Serve({});
  TlsClient client(server_->port());
  client.Send(
      "POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nExpect: 100-continue\r\n\r\n");
  EXPECT_EQ(client.ReadUntil("\r\n\r\n"), "HTTP/1.1 100 Continue\r\n\r\n");
  client.Send("x");
  EXPECT_THAT(client.ReadUntil("\r\n\r\nx"), StartsWith("HTTP/1.1 200 OK\r\n"));
  client.Send("GET /wait HTTP/1.1\r\nHost: h\r\n\r\n");
  absl::SleepFor(absl::Milliseconds(50));
  client.Vanish();
  EXPECT_TRUE(Await([&] { return gone_ == 1; }));
  EXPECT_TRUE(Await([&] { return server_->num_connections() == 0; }));
}

TEST_F(HttpsTest, ClientsWithoutTlsAndSilentOnesGo) {
  Serve({.timeouts = {.head = absl::Milliseconds(150)}});
  RawClient plain(server_->port());
  plain.Send("GET /echo HTTP/1.1\r\nHost: h\r\n\r\n");
  plain.ReadAll();
  EXPECT_TRUE(plain.ended());
  RawClient silent(server_->port());
  silent.ReadAll();
  EXPECT_TRUE(silent.ended());
  TlsClient client(server_->port());
  EXPECT_THAT(Echo(&client, "a"), StartsWith("HTTP/1.1 200 OK\r\n"));
}

TEST_F(HttpsTest, NewConnectionsSeeANewCertificateAndOldOnesGoOn) {
  Serve({});
  TlsClient old(server_->port());
  const TestCertificate next = MakeCertificate();
  files_.Write(next);
  tls_->ReadNow();
  EXPECT_TRUE(Await([&] { return TlsClient(server_->port()).Certificate() == next.certificate; }));
  EXPECT_NE(old.Certificate(), next.certificate);
  EXPECT_THAT(Echo(&old, "a"), StartsWith("HTTP/1.1 200 OK\r\n"));
}

TEST_F(HttpsTest, AStopIsPunctualWhateverIsUnderWay) {
  Serve({});
  TlsClient waiting(server_->port());
  waiting.Send("GET /wait HTTP/1.1\r\nHost: h\r\n\r\n");
  RawClient shaking(server_->port());
  EXPECT_TRUE(Await([&] { return server_->num_connections() == 2; }));
  const absl::Time start = absl::Now();
  server_->Shutdown(absl::Milliseconds(200));
  EXPECT_LT(absl::Now() - start, absl::Seconds(5));
  EXPECT_EQ(server_->num_connections(), 0);
}

}  // namespace
}  // namespace tessera
