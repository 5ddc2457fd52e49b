#include "server/commands/http2_frames.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>
#include <string>

#include "absl/strings/str_cat.h"

namespace tessera::http2 {
namespace {

using ::testing::HasSubstr;

TEST(Http2FramesTest, FramesComeBackPieceByPiece) {
  const std::string payload(300, 'x');
  const std::string sent = absl::StrCat(
      Encode({.type = FrameType::kData, .flags = kEndStream, .stream = 7, .payload = payload}),
      Encode({.type = FrameType::kPing, .flags = kAck, .payload = "12345678"}));
  std::string_view bytes = sent;
  for (size_t length = 0; length < 9 + payload.size(); ++length) {
    std::string_view part = bytes.substr(0, length);
    const auto frame = TakeFrame(&part);
    ASSERT_TRUE(frame.ok());
    EXPECT_FALSE(frame->has_value());
    EXPECT_EQ(part.size(), length);
  }
  const auto data = TakeFrame(&bytes);
  ASSERT_TRUE(data.ok() && data->has_value());
  EXPECT_EQ((*data)->type, FrameType::kData);
  EXPECT_EQ((*data)->flags, kEndStream);
  EXPECT_EQ((*data)->stream, 7U);
  EXPECT_EQ((*data)->payload, payload);
  const auto ping = TakeFrame(&bytes);
  ASSERT_TRUE(ping.ok() && ping->has_value());
  EXPECT_EQ((*ping)->type, FrameType::kPing);
  EXPECT_EQ((*ping)->payload, "12345678");
  EXPECT_TRUE(bytes.empty());
}

TEST(Http2FramesTest, LongAndPaddedFramesAreRefused) {
  std::string_view announced("\x00\x40\x01\x00\x00\x00\x00\x00\x01", 9);  // 16,385 bytes
  EXPECT_THAT(std::string(TakeFrame(&announced).status().message()), HasSubstr("16385"));
  std::string_view padded("\x00\x00\x00\x00\x08\x00\x00\x00\x01", 9);
  EXPECT_FALSE(TakeFrame(&padded).ok());
}

// The preface and the fields' bytes, written out from RFC 9113 and RFC 7541.
TEST(Http2FramesTest, WritesWhatTheStandardsSay) {
  EXPECT_EQ(Greeting(), std::string("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
                                    "\x00\x00\x06\x04\x00\x00\x00\x00\x00"
                                    "\x00\x04\x7f\xff\xff\xff"
                                    "\x00\x00\x04\x08\x00\x00\x00\x00\x00"
                                    "\x7f\xff\x00\x00",
                                    24 + 9 + 6 + 9 + 4));
  EXPECT_EQ(FirstCallHeaders("/a.B/C"),
            "\x83\x86"
            "\x44\x06/a.B/C"
            "\x41\x09localhost"
            "\x40\x02te\x08trailers"
            "\x5f\x10"
            "application/grpc");
  EXPECT_EQ(NextCallHeaders(), "\x83\x86\xc1\xc0\xbf\xbe");
  EXPECT_EQ(EncodeMessage("abc"), std::string("\x00\x00\x00\x00\x03"
                                              "abc",
                                              8));
}

TEST(Http2FramesTest, MessagesComeBackWhole) {
  const std::string sent = EncodeMessage("first") + EncodeMessage("") + EncodeMessage("last");
  std::string_view bytes = sent;
  for (const std::string expected : {"first", "", "last"}) {
    const auto message = TakeMessage(&bytes);
    ASSERT_TRUE(message.ok() && message->has_value());
    EXPECT_EQ(**message, expected);
  }
  std::string_view cut = std::string_view(sent).substr(0, 9);
  EXPECT_FALSE(TakeMessage(&cut)->has_value());
  std::string_view compressed("\x01\x00\x00\x00\x00", 5);
  EXPECT_FALSE(TakeMessage(&compressed).ok());
}

TEST(Http2FramesTest, AnyBytesEndInFramesOrErrors) {
  std::mt19937 random(20261125);
  for (int round = 0; round < 20'000; ++round) {
    std::string bytes(random() % 64, '\0');
    for (char& byte : bytes) byte = static_cast<char>(random() % (round % 2 == 0 ? 256 : 12));
    std::string_view left = bytes;
    while (true) {
      const size_t before = left.size();
      const auto frame = TakeFrame(&left);
      if (!frame.ok() || !frame->has_value()) break;
      EXPECT_EQ(before - left.size(), 9 + (*frame)->payload.size());
    }
    left = bytes;
    while (true) {
      const auto message = TakeMessage(&left);
      if (!message.ok() || !message->has_value()) break;
    }
  }
}

}  // namespace
}  // namespace tessera::http2
