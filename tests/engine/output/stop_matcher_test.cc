#include "engine/output/stop_matcher.h"

#include <gtest/gtest.h>

#include <random>
#include <string>
#include <vector>

namespace tessera {
namespace {

struct Outcome {
  std::string shown;
  int32_t stop = StopMatcher::kNoMatch;
  friend bool operator==(const Outcome&, const Outcome&) = default;
};

// The rule written down naively: the first end of any stop string; the longest that ends there.
Outcome Expected(const std::string& text, const std::vector<std::string>& stops, bool include) {
  for (size_t end = 1; end <= text.size(); ++end) {
    int32_t best = StopMatcher::kNoMatch;
    for (size_t i = 0; i < stops.size(); ++i) {
      const std::string& stop = stops[i];
      if (stop.empty() || stop.size() > end) continue;
      if (text.compare(end - stop.size(), stop.size(), stop) != 0) continue;
      if (best < 0 || stop.size() > stops[best].size()) best = static_cast<int32_t>(i);
    }
    if (best >= 0) return {text.substr(0, include ? end : end - stops[best].size()), best};
  }
  return {text, StopMatcher::kNoMatch};
}

// Pushes the pieces; everything shown must be a prefix of what is finally shown.
Outcome Stream(const std::vector<std::string>& pieces, const std::vector<std::string>& stops,
               bool include) {
  StopMatcher matcher(stops, include);
  Outcome outcome;
  for (const std::string& piece : pieces) {
    const int32_t found = matcher.Push(piece, /*may_stop=*/true, &outcome.shown);
    if (found != StopMatcher::kNoMatch) {
      EXPECT_EQ(outcome.stop, StopMatcher::kNoMatch);
      outcome.stop = found;
    }
  }
  matcher.Finish(&outcome.shown);
  return outcome;
}

const std::vector<std::string>& Alphabet() {
  static const auto* letters = new std::vector<std::string>{
      "a", "b", "\n", "é", "世", "界", "🙂", "🙃", "e\u0301", "👩\u200d💻"};
  return *letters;
}

std::string RandomText(std::mt19937* random, size_t max_letters) {
  std::string text;
  for (size_t left = (*random)() % (max_letters + 1); left > 0; --left) {
    text += Alphabet()[(*random)() % Alphabet().size()];
  }
  return text;
}

TEST(StopMatcher, PassesTextThroughWithoutStops) {
  EXPECT_EQ(Stream({"ab", "c"}, {}, false), (Outcome{"abc", StopMatcher::kNoMatch}));
  EXPECT_EQ(Stream({"ab", "c"}, {""}, false), (Outcome{"abc", StopMatcher::kNoMatch}));
}

TEST(StopMatcher, HoldsBackWhatCouldBecomeAStop) {
  StopMatcher matcher({"\n\nUser:"}, false);
  std::string shown;
  matcher.Push("Hi.\n", true, &shown);
  EXPECT_EQ(shown, "Hi.");
  matcher.Push("\nU", true, &shown);
  EXPECT_EQ(shown, "Hi.");
  EXPECT_EQ(matcher.held_bytes(), 3U);
  matcher.Push("m", true, &shown);
  EXPECT_EQ(shown, "Hi.\n\nUm");
}

TEST(StopMatcher, FinishShowsTheUnfinishedBeginning) {
  EXPECT_EQ(Stream({"abc<"}, {"<end>"}, false).shown, "abc<");
}

TEST(StopMatcher, IncludesTheStopWhenAsked) {
  EXPECT_EQ(Stream({"abSTO", "Pcd"}, {"STOP"}, true), (Outcome{"abSTOP", 0}));
  EXPECT_EQ(Stream({"abSTO", "Pcd"}, {"STOP"}, false), (Outcome{"ab", 0}));
}

TEST(StopMatcher, FirstEndWinsThenTheLongest) {
  EXPECT_EQ(Stream({"abcd"}, {"bcd", "c"}, false), (Outcome{"ab", 1}));
  EXPECT_EQ(Stream({"abcd"}, {"c", "bc"}, false), (Outcome{"a", 1}));
}

TEST(StopMatcher, OverlappingBeginningsAreFound) {
  EXPECT_EQ(Stream({"aa", "ab"}, {"aab"}, false), (Outcome{"a", 0}));
  EXPECT_EQ(Stream({"abab", "ac"}, {"abac"}, false), (Outcome{"ab", 0}));
}

TEST(StopMatcher, NothingComesAfterTheMatch) {
  StopMatcher matcher({"x"}, false);
  std::string shown;
  EXPECT_EQ(matcher.Push("axb", true, &shown), 0);
  EXPECT_EQ(matcher.Push("cx", true, &shown), StopMatcher::kNoMatch);
  matcher.Finish(&shown);
  EXPECT_EQ(shown, "a");
}

TEST(StopMatcher, IgnoresMatchesWhileItMayNotStop) {
  StopMatcher matcher({"ab"}, false);
  std::string shown;
  EXPECT_EQ(matcher.Push("ab", false, &shown), StopMatcher::kNoMatch);
  EXPECT_EQ(shown, "ab");
  EXPECT_EQ(matcher.Push("a", false, &shown), StopMatcher::kNoMatch);
  EXPECT_EQ(matcher.Push("b", true, &shown), 0);
  EXPECT_EQ(shown, "ab");
}

// Every cut of the text into two pieces at every byte, for random texts and stops.
TEST(StopMatcher, TheCutDoesNotMatter) {
  const uint32_t seed = 7;
  std::mt19937 random(seed);
  int64_t cases = 0;
  int64_t stopped = 0;
  while (cases < 150000) {
    std::vector<std::string> stops;
    for (uint32_t i = 0; i <= random() % 3; ++i) stops.push_back(RandomText(&random, 3));
    std::string text = RandomText(&random, 12);
    if (random() % 2 == 0) text += stops[random() % stops.size()];
    text += RandomText(&random, 4);
    const bool include = random() % 4 == 0;
    const Outcome expected = Expected(text, stops, include);
    if (expected.stop >= 0) ++stopped;
    for (size_t cut = 0; cut <= text.size(); ++cut, ++cases) {
      const Outcome outcome = Stream({text.substr(0, cut), text.substr(cut)}, stops, include);
      ASSERT_EQ(outcome, expected) << "seed " << seed << " case " << cases << " text " << text;
    }
    std::vector<std::string> bytes;
    for (char byte : text) bytes.emplace_back(1, byte);
    ASSERT_EQ(Stream(bytes, stops, include), expected) << "seed " << seed << " text " << text;
  }
  EXPECT_GT(stopped, 1000);
}

// At no time has more been shown than the final text: no part of a stop leaks.
TEST(StopMatcher, ShownTextIsNeverTakenBack) {
  const uint32_t seed = 8;
  std::mt19937 random(seed);
  for (int i = 0; i < 20000; ++i) {
    const std::vector<std::string> stops = {RandomText(&random, 4), RandomText(&random, 2)};
    const std::string text = RandomText(&random, 10) + stops[0] + RandomText(&random, 3);
    const std::string expected = Expected(text, stops, false).shown;
    StopMatcher matcher(stops, false);
    std::string shown;
    for (char byte : text) {
      matcher.Push(std::string_view(&byte, 1), true, &shown);
      ASSERT_EQ(expected.compare(0, shown.size(), shown), 0) << "seed " << seed << " " << text;
    }
  }
}

}  // namespace
}  // namespace tessera
