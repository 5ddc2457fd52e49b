#include "engine/text/pcre2_regex.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"

namespace tessera {
namespace {

using testing::HasSubstr;

constexpr RegexLimits kAmple = {.heap_kib = 64 << 10};
// PCRE2's own word for "interpret this": its memory is the heap's, which has a limit.
constexpr char kInterpreted[] = "(*NO_JIT)";

absl::StatusOr<size_t> MatchEnd(const std::string& pattern, RegexLimits limits,
                                const std::string& text, size_t position = 0) {
  auto regex = Pcre2Regex::Compile(pattern, limits);
  if (!regex.ok()) return regex.status();
  Pcre2Regex::Workspace workspace;
  return (*regex)->MatchEnd(text, position, workspace);
}

TEST(Pcre2RegexTest, MatchesAtThePositionOnly) {
  for (const std::string mode : {"", kInterpreted}) {
    EXPECT_EQ(*MatchEnd(mode + "\\p{L}+", kAmple, "12äbc34", 2), 6U);
    EXPECT_EQ(MatchEnd(mode + "\\p{L}+", kAmple, "12äbc34", 1).status().code(),
              absl::StatusCode::kNotFound);
  }
}

TEST(Pcre2RegexTest, APatternThatIsNoneIsAnInternalError) {
  EXPECT_EQ(MatchEnd("(", kAmple, "").status().code(), absl::StatusCode::kInternal);
}

// Needs a frame for every character, and tries exponentially many ways.
TEST(Pcre2RegexTest, TooLittleMemoryIsToldFromTooManySteps) {
  const std::string text(100'000, 'a');
  const auto memory =
      MatchEnd(absl::StrCat(kInterpreted, "(?:a|b)*[cd]"), {.heap_kib = 64}, text).status();
  EXPECT_EQ(memory.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(memory.message(), HasSubstr("not enough memory"));
  for (const std::string mode : {"", kInterpreted}) {
    const auto steps =
        MatchEnd(mode + "(a+)+[bc]", {.steps = 1000, .heap_kib = 64 << 10}, std::string(50, 'a'))
            .status();
    EXPECT_EQ(steps.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(steps.message(), HasSubstr("too many steps"));
  }
}

// Where the machine code's stack is too small the interpreter goes on.
TEST(Pcre2RegexTest, DeepMatchesFallBackToTheInterpreter) {
  const std::string text = std::string(100'000, 'a') + "c";
  EXPECT_EQ(*MatchEnd("(?:a|b)*c", {.heap_kib = 1 << 20}, text), text.size());
}

// The numbers are those of pcre2.h: bad UTF-8, no memory, a bug in PCRE2, a damaged pattern.
TEST(Pcre2RegexTest, FailuresAreToldApart) {
  constexpr int kBadUtf8 = -3;
  constexpr int kNoMemory = -48;
  constexpr int kInternal = -44;
  constexpr int kBadMagic = -31;
  EXPECT_EQ(Pcre2Failure(kNoMemory).code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(Pcre2Failure(kBadUtf8).code(), absl::StatusCode::kInternal);
  EXPECT_THAT(Pcre2Failure(kBadUtf8).message(), HasSubstr("UTF-8 error"));
  EXPECT_EQ(Pcre2Failure(kInternal).code(), absl::StatusCode::kInternal);
  EXPECT_THAT(Pcre2Failure(kInternal).message(), HasSubstr("internal error"));
  EXPECT_EQ(Pcre2Failure(kBadMagic).code(), absl::StatusCode::kInternal);
}

}  // namespace
}  // namespace tessera
