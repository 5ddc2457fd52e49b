#include "parallel/cluster/frames.h"

#include <random>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace tessera {
namespace {

using testing::HasSubstr;

constexpr size_t kLimit = size_t{8} << 20;

std::string Text(size_t size) {
  std::mt19937 random(static_cast<uint32_t>(size));
  std::string text(size, ' ');
  for (char& c : text) c = static_cast<char>(random());
  return text;
}

// Opens all frames of a message; the last result.
absl::StatusOr<std::optional<std::string>> OpenAll(FrameOpener* opener,
                                                   const std::vector<v1::cluster::Frame>& frames) {
  absl::StatusOr<std::optional<std::string>> result = std::nullopt;
  for (const v1::cluster::Frame& frame : frames) {
    result = opener->Open(frame);
    if (!result.ok()) return result;
  }
  return result;
}

TEST(Frames, MessagesOfEverySizeArrive) {
  FrameSealer sealer;
  FrameOpener opener(kLimit);
  sealer.SetKey("key");
  opener.SetKey("key");
  for (size_t size : {size_t{0}, size_t{1}, kMaxFrameBody - 1, kMaxFrameBody, kMaxFrameBody + 1,
                      3 * kMaxFrameBody + 17}) {
    const std::string text = Text(size);
    const auto message = OpenAll(&opener, sealer.Seal(text));
    ASSERT_TRUE(message.ok()) << message.status();
    EXPECT_TRUE(*message == text) << size;
  }
}

TEST(Frames, HandshakeMessagesAreShort) {
  FrameSealer sealer;
  FrameOpener opener(kLimit);
  EXPECT_TRUE(OpenAll(&opener, sealer.Seal(Text(kMaxHandshakeMessage))).ok());
  EXPECT_THAT(OpenAll(&opener, sealer.Seal(Text(kMaxHandshakeMessage + 1))).status().message(),
              HasSubstr("more than 4096"));
}

TEST(Frames, OversizedMessagesAreRefusedBeforeTheyAreWhole) {
  FrameSealer sealer;
  FrameOpener opener(2 * kMaxFrameBody);
  sealer.SetKey("key");
  opener.SetKey("key");
  const auto frames = sealer.Seal(Text(4 * kMaxFrameBody));
  EXPECT_TRUE(opener.Open(frames[0]).ok());
  EXPECT_TRUE(opener.Open(frames[1]).ok());
  EXPECT_FALSE(opener.Open(frames[2]).ok());
}

TEST(Frames, ChangedRepeatedLostAndForeignFramesAreRefused) {
  FrameSealer sealer;
  FrameOpener opener(kLimit);
  FrameSealer stranger;
  sealer.SetKey("key");
  stranger.SetKey("other");
  opener.SetKey("key");
  v1::cluster::Frame first = sealer.Seal("first")[0];
  const v1::cluster::Frame second = sealer.Seal("second")[0];
  EXPECT_THAT(opener.Open(second).status().message(), HasSubstr("instead of 0"));
  EXPECT_THAT(opener.Open(stranger.Seal("first")[0]).status().message(),
              HasSubstr("not authentic"));
  v1::cluster::Frame changed = first;
  changed.set_body("fir5t");
  EXPECT_FALSE(opener.Open(changed).ok());
  changed = first;
  changed.set_more(true);
  EXPECT_FALSE(opener.Open(changed).ok());
  changed = first;
  changed.clear_mac();
  EXPECT_FALSE(opener.Open(changed).ok());
  EXPECT_TRUE(opener.Open(first).ok());
  EXPECT_THAT(opener.Open(first).status().message(), HasSubstr("repeated"));
  EXPECT_TRUE(opener.Open(second).ok());
}

}  // namespace
}  // namespace tessera
