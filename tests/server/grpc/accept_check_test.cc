#include "server/grpc/accept_check.h"

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <thread>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "tests/server/grpc/service_fixture.h"

namespace tessera {
namespace {

TEST(AcceptCheckTest, AServerThatAcceptsIsFound) {
  Fixture fixture;
  AcceptCheck check("127.0.0.1", fixture.server().port());
  EXPECT_TRUE(check.Check().ok());
  AcceptCheck wildcard("0.0.0.0", fixture.server().port());
  EXPECT_TRUE(wildcard.Check().ok());
}

// The kernel completes the connection all the same.
TEST(AcceptCheckTest, AListenerThatNobodyAcceptsFromIsNot) {
  const int file = socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  inet_pton(AF_INET, "127.0.0.1", &address.sin_addr);
  ASSERT_EQ(bind(file, reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
  ASSERT_EQ(listen(file, 8), 0);
  socklen_t size = sizeof(address);
  ASSERT_EQ(getsockname(file, reinterpret_cast<sockaddr*>(&address), &size), 0);
  AcceptCheck check("127.0.0.1", ntohs(address.sin_port));
  // Who asks meanwhile does not wait.
  std::thread first([&check] { EXPECT_TRUE(check.Check().ok()); });
  absl::SleepFor(absl::Milliseconds(100));
  const absl::Time asked = absl::Now();
  EXPECT_TRUE(check.Check().ok());
  EXPECT_LT(absl::Now() - asked, absl::Milliseconds(100));
  first.join();
  // Late once or twice is a busy machine; the answer is asked for once a second.
  EXPECT_TRUE(check.Check().ok());
  const absl::Time start = absl::Now();
  while (check.Check().ok() && absl::Now() - start < absl::Seconds(10)) {
    absl::SleepFor(absl::Milliseconds(50));
  }
  EXPECT_GT(absl::Now() - start, absl::Milliseconds(1500));
  EXPECT_EQ(check.Check().code(), absl::StatusCode::kUnavailable);
  close(file);
  EXPECT_EQ(check.Check().code(), absl::StatusCode::kUnavailable);
}

}  // namespace
}  // namespace tessera
