// A client that sends and reads bytes, for the tests of the HTTP listener.
#ifndef TESSERA_TESTS_SERVER_HTTP_RAW_CLIENT_H_
#define TESSERA_TESTS_SERVER_HTTP_RAW_CLIENT_H_

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>

namespace tessera {

class RawClient {
 public:
  explicit RawClient(int32_t port) : file_(socket(AF_INET, SOCK_STREAM, 0)) {
    sockaddr_in address = {};
    address.sin_family = AF_INET;
    address.sin_port = htons(static_cast<uint16_t>(port));
    inet_pton(AF_INET, "127.0.0.1", &address.sin_addr);
    EXPECT_EQ(connect(file_, reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
  }
  explicit RawClient(const std::string& path) : file_(socket(AF_UNIX, SOCK_STREAM, 0)) {
    sockaddr_un address = {};
    address.sun_family = AF_UNIX;
    std::strncpy(address.sun_path, path.c_str(), sizeof(address.sun_path) - 1);
    EXPECT_EQ(connect(file_, reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
  }
  ~RawClient() { Close(); }
  RawClient(const RawClient&) = delete;
  RawClient& operator=(const RawClient&) = delete;

  void Send(std::string_view text) const {
    EXPECT_EQ(send(file_, text.data(), text.size(), MSG_NOSIGNAL),
              static_cast<ssize_t>(text.size()));
  }
  void EndSending() const { shutdown(file_, SHUT_WR); }
  void Close() {
    if (file_ >= 0) close(file_);
    file_ = -1;
  }
  // Until `end` has come, or the connection has ended, or for ten seconds.
  std::string ReadUntil(std::string_view end) {
    constexpr int kWaitMs = 10'000;
    while (received_.find(end) == std::string::npos) {
      pollfd waiting = {.fd = file_, .events = POLLIN, .revents = 0};
      char buffer[4096];
      if (poll(&waiting, 1, kWaitMs) != 1) break;
      const ssize_t count = recv(file_, buffer, sizeof(buffer), 0);
      if (count <= 0) {
        ended_ = true;
        break;
      }
      received_.append(buffer, static_cast<size_t>(count));
    }
    const size_t found = received_.find(end);
    const size_t size = found == std::string::npos ? received_.size() : found + end.size();
    std::string text = received_.substr(0, size);
    received_.erase(0, size);
    return text;
  }
  std::string ReadAll() { return ReadUntil("\xFF never sent"); }
  bool ended() const { return ended_; }  // as the last read found it

 private:
  int file_;
  std::string received_;
  bool ended_ = false;
};

}  // namespace tessera

#endif  // TESSERA_TESTS_SERVER_HTTP_RAW_CLIENT_H_
