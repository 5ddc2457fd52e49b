// Documents, passages, their index, and answers composed of notes.
#include "server/ask/ask.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "engine/text/utf8.h"
#include "server/ask/document.h"
#include "server/ask/passage_index.h"
#include "server/ask/passages.h"
#include "tests/support/cpu_time.h"

namespace tessera {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

std::vector<std::string> Texts(const std::vector<DocumentLine>& lines) {
  std::vector<std::string> texts;
  for (const DocumentLine& line : lines) {
    texts.push_back(absl::StrCat(line.page, ":", line.number, " ", line.text));
  }
  return texts;
}

TEST(DocumentTest, LinesAndPagesOfText) {
  EXPECT_THAT(Texts(TextLines("a\r\n\nb")), ElementsAre("0:1 a", "0:2 ", "0:3 b"));
  EXPECT_THAT(Texts(TextLines("\xEF\xBB\xBFone\ntwo\f\fthree\n\f")),
              ElementsAre("1:1 one", "1:2 two", "3:1 three"));
  EXPECT_THAT(TextLines(""), IsEmpty());
  EXPECT_THAT(Texts(TextLines("a\xff")), ElementsAre("0:1 a\xEF\xBF\xBD"));
}

TEST(DocumentTest, TextOfHtmlWithLinesOfTheSource) {
  EXPECT_THAT(Texts(HtmlLines(
                  "<!DOCTYPE html>\n<html><head><title>T &amp; U</title>\n"
                  "<style>p { color: red }</style><script>if (a < b) \"</p>\";</script>\n"
                  "<!-- not\nshown --></head>\n<body><p>One\n  two</p><p>3 &lt; 4 &#233;&#x1F642;"
                  "&unknown; &</p><a title=\"a > b\">link</a><br/>end<td>x</td><td>y</td>")),
              ElementsAre("0:2 T & U", "0:6 One two", "0:7 3 < 4 é🙂&unknown; &", "0:7 link",
                          "0:7 end x y"));
  EXPECT_THAT(Texts(HtmlLines("1 < 2 <b>bold</b> <")), ElementsAre("0:1 1 < 2 bold <"));
  EXPECT_THAT(Texts(HtmlLines("a<p title=\"never closed>b")), ElementsAre("0:1 a", "0:1 b"));
  EXPECT_THAT(Texts(HtmlLines("a<script>never closed")), ElementsAre("0:1 a"));
  EXPECT_THAT(Texts(HtmlLines("a<!-- never closed")), ElementsAre("0:1 a"));
}

TEST(DocumentTest, FilesThatCannotBeReadAreNamed) {
  const std::string path = absl::StrCat(::testing::TempDir(), "/ask_", getpid());
  EXPECT_TRUE(absl::IsNotFound(ReadDocument(path).status()));
  for (const std::string& bytes : {std::string(" \n\n"), std::string("a\0b", 3)}) {
    std::ofstream(path, std::ios::binary) << bytes;
    const auto document = ReadDocument(path);
    EXPECT_TRUE(absl::IsInvalidArgument(document.status()));
    EXPECT_THAT(std::string(document.status().message()), HasSubstr(path));
  }
  std::ofstream(path, std::ios::binary) << "hello";
  EXPECT_EQ(ReadDocument(path)->name, absl::StrCat("ask_", getpid()));
  unlink(path.c_str());
}

std::string RandomText(std::mt19937_64* random, int max_lines) {
  const std::vector<std::string> words = {"a",    "be",  "sea\u00e9", "\u4e16\u754c", "Grüße",
                                          "🙂", "fox", "\t",        "longer-word",  "x1"};
  std::string text;
  const int lines = static_cast<int>((*random)() % static_cast<uint64_t>(max_lines)) + 1;
  for (int i = 0; i < lines; ++i) {
    const auto count = (*random)() % 12;
    for (uint64_t w = 0; w < count; ++w) {
      absl::StrAppend(&text, words[(*random)() % words.size()], (*random)() % 4 == 0 ? "" : " ");
    }
    absl::StrAppend(&text, (*random)() % 20 == 0 ? "\f" : "\n");
  }
  return text;
}

TEST(PassagesTest, NothingIsLostNothingIsTooLongAndPlacesAreRight) {
  const uint64_t seed = std::random_device()();
  SCOPED_TRACE(absl::StrCat("seed ", seed));
  std::mt19937_64 random(seed);
  for (int round = 0; round < 300; ++round) {
    const Document document{.name = "d", .lines = TextLines(RandomText(&random, 60))};
    const auto bytes = static_cast<int32_t>(8 + random() % 200);
    const auto overlap = static_cast<int32_t>(random() % 150);
    const auto passages = CutPassages({document}, {.bytes = bytes, .overlap_bytes = overlap});
    std::map<std::pair<int32_t, int32_t>, std::string> by_place;
    for (const DocumentLine& line : document.lines) by_place[{line.page, line.number}] = line.text;
    std::string joined;
    for (const Passage& passage : passages) {
      EXPECT_LE(passage.text.size(), static_cast<size_t>(bytes));
      EXPECT_TRUE(IsValidUtf8(passage.text));
      EXPECT_LE(std::make_pair(passage.begin.page, passage.begin.line),
                std::make_pair(passage.end.page, passage.end.line));
      const std::string first = passage.text.substr(0, passage.text.find('\n'));
      EXPECT_THAT(by_place.at({passage.begin.page, passage.begin.line}), HasSubstr(first));
      joined += passage.text + "\n";
    }
    for (const DocumentLine& line : document.lines) {
      for (const std::string& word : WordsOf(line.text)) {
        if (line.text.size() < static_cast<size_t>(bytes)) {
          EXPECT_THAT(WordsOf(joined), ::testing::Contains(word));
        }
      }
    }
  }
}

TEST(PassagesTest, NeighboursOverlapInWholeLines) {
  Document document{.name = "d.txt"};
  for (int i = 1; i <= 9; ++i) {
    document.lines.push_back({.number = i, .text = absl::StrCat("line", i)});
  }
  const auto passages = CutPassages({document}, {.bytes = 20, .overlap_bytes = 7});
  ASSERT_GE(passages.size(), 3u);
  EXPECT_EQ(passages[0].text, "line1\nline2\nline3");
  EXPECT_EQ(passages[1].text, "line3\nline4\nline5");
  EXPECT_EQ(PlaceText({document}, passages[1]), "d.txt, lines 3-5");
  EXPECT_EQ(PlaceText({document}, {.begin = {2, 3}, .end = {2, 3}}), "d.txt, page 2, line 3");
  EXPECT_EQ(PlaceText({document}, {.begin = {2, 3}, .end = {4, 1}}), "d.txt, pages 2-4");
}

TEST(PassageIndexTest, WordsOfSeveralScripts) {
  EXPECT_THAT(WordsOf("Cats' class, 3.5 ÉTÉ!"), ElementsAre("cat", "class", "3", "5", "été"));
  EXPECT_THAT(WordsOf("Привет—мир"), ElementsAre("привет", "мир"));
  EXPECT_THAT(WordsOf("天空a蓝"), ElementsAre("天", "天空", "空", "a", "蓝"));
  EXPECT_THAT(WordsOf("\xff…"), IsEmpty());
}

// The formula, word for word, over every passage.
double Bm25(const std::vector<Passage>& passages, const std::string& question, size_t at) {
  std::vector<std::vector<std::string>> words;
  double total = 0;
  for (const Passage& passage : passages) {
    words.push_back(WordsOf(passage.text));
    total += static_cast<double>(words.back().size());
  }
  const auto count = static_cast<double>(passages.size());
  std::vector<std::string> asked = WordsOf(question);
  std::sort(asked.begin(), asked.end());
  asked.erase(std::unique(asked.begin(), asked.end()), asked.end());
  double score = 0;
  for (const std::string& word : asked) {
    double containing = 0;
    for (const auto& list : words) containing += std::count(list.begin(), list.end(), word) > 0;
    const auto frequency =
        static_cast<double>(std::count(words[at].begin(), words[at].end(), word));
    const double length = static_cast<double>(words[at].size()) / std::max(1.0, total / count);
    score += std::log(1 + (count - containing + 0.5) / (containing + 0.5)) * frequency * 2.2 /
             (frequency + 1.2 * (0.25 + 0.75 * length));
  }
  return score;
}

TEST(PassageIndexTest, ScoresAreTheFormulas) {
  const uint64_t seed = std::random_device()();
  SCOPED_TRACE(absl::StrCat("seed ", seed));
  std::mt19937_64 random(seed);
  for (int round = 0; round < 50; ++round) {
    const Document document{.name = "d", .lines = TextLines(RandomText(&random, 30))};
    const auto passages = CutPassages({document}, {.bytes = 100, .overlap_bytes = 20});
    const PassageIndex index(passages);
    const std::string question = RandomText(&random, 1);
    const auto hits = index.Find(question, passages.size());
    double before = INFINITY;
    for (const PassageIndex::Hit& hit : hits) {
      EXPECT_NEAR(hit.score, Bm25(passages, question, static_cast<size_t>(hit.passage)), 1e-9);
      EXPECT_LE(hit.score, before);
      before = hit.score;
    }
    EXPECT_LE(index.Find(question, 2).size(), 2u);
  }
  EXPECT_THAT(PassageIndex({}).Find("a", 5), IsEmpty());
}

TEST(PassageIndexTest, TwoHundredPagesAreIndexedInTwoSeconds) {
  std::mt19937_64 random(7);
  std::string text;
  for (int page = 1; page <= 200; ++page) {
    for (int line = 1; line <= 45; ++line) {
      for (int word = 0; word < 11; ++word) absl::StrAppend(&text, "w", random() % 20'000, " ");
      if (page == 137 && line == 21) absl::StrAppend(&text, "the vault opens with 4711");
      absl::StrAppend(&text, "\n");
    }
    absl::StrAppend(&text, "\f");
  }
  const double begin = ThreadCpuSeconds();
  const std::vector<Document> documents = {{.name = "book", .lines = TextLines(text)}};
  const auto passages = CutPassages(documents, {});
  const PassageIndex index(passages);
  EXPECT_LT(ThreadCpuSeconds() - begin, 2 * kSlowdown);
  const auto hits = index.Find("What opens the vault?", 3);
  ASSERT_FALSE(hits.empty());
  const Passage& best = passages[static_cast<size_t>(hits[0].passage)];
  EXPECT_LE(best.begin.page, 137);
  EXPECT_GE(best.end.page, 137);
  EXPECT_THAT(best.text, HasSubstr("4711"));
}

// Says what `answers` has for the first passage whose text is in the request.
class FakeGenerator final : public TextGenerator {
 public:
  absl::Status Stream(const v1::GenerateRequest& request, const OutputHandler& on_output,
                      const std::atomic<bool>*) override {
    const std::string& user = request.chat().messages(1).content();
    absl::MutexLock lock(&mutex_);
    requests.push_back(user);
    if (absl::StrContains(user, "broken")) return absl::UnavailableError("gone");
    v1::GenerateResponse response;
    response.add_choices()->set_text("NONE.");
    for (const auto& [part, answer] : answers) {
      if (absl::StrContains(user, part)) response.mutable_choices(0)->set_text(answer);
    }
    on_output(response);
    return absl::OkStatus();
  }

  std::map<std::string, std::string> answers;
  std::vector<std::string> requests;

 private:
  absl::Mutex mutex_;
};

class AskTest : public ::testing::Test {
 protected:
  absl::StatusOr<AskAnswer> AskAbout(const std::string& text, const std::string& question) {
    documents_ = {{.name = "d", .lines = TextLines(text)}};
    passages_ = CutPassages(documents_, {.bytes = 40, .overlap_bytes = 0});
    AskOptions options;
    options.on_progress = [this](int32_t, int32_t) { ++progress_; };
    return Ask(&generator_, documents_, passages_, PassageIndex(passages_), question, options);
  }

  FakeGenerator generator_;
  std::vector<Document> documents_;
  std::vector<Passage> passages_;
  int progress_ = 0;
};

TEST_F(AskTest, OneNoteIsTheAnswer) {
  generator_.answers = {{"fox one", "It is one."}};
  const auto answer = AskAbout("fox one red cat with some words here\nfox two blue dog", "fox?");
  ASSERT_TRUE(answer.ok()) << answer.status();
  EXPECT_EQ(answer->text, "It is one.");
  ASSERT_EQ(answer->sources.size(), 1u);
  EXPECT_EQ(passages_[static_cast<size_t>(answer->sources[0])].begin.line, 1);
  EXPECT_EQ(answer->notes.size(), 2u);
  EXPECT_EQ(progress_, 2);
  EXPECT_THAT(generator_.requests[0], HasSubstr("Question: fox?"));
}

TEST_F(AskTest, SeveralNotesAreComposedAndCited) {
  generator_.answers = {{"fox one", "A"}, {"fox two", "B"}, {"Notes:", "It is B [2]."}};
  const auto answer = AskAbout(
      "fox one red cat with some words here\nfox two blue dog with some words, too", "fox?");
  ASSERT_TRUE(answer.ok()) << answer.status();
  EXPECT_EQ(answer->text, "It is B [2].");
  ASSERT_EQ(answer->sources.size(), 1u);
  generator_.answers["Notes:"] = "No number.";
  EXPECT_EQ(AskAbout("fox one red cat with some words here\nfox two blue dog with words", "fox?")
                ->sources.size(),
            2u);
}

TEST_F(AskTest, NothingIsSaidWhereNothingIsFound) {
  EXPECT_EQ(AskAbout("fox one", "fox?")->text, "");
  EXPECT_THAT(AskAbout("fox one", "whale?")->notes, IsEmpty());
  EXPECT_EQ(AskAbout("broken fox", "fox?").status().code(), absl::StatusCode::kUnavailable);
  for (const char* none : {"None", "\"NONE\"", "none.", "", " "}) {
    generator_.answers = {{"fox", none}};
    EXPECT_EQ(AskAbout("fox one", "fox?")->text, "") << none;
  }
  generator_.answers = {{"fox", "None of the foxes is red."}};
  EXPECT_NE(AskAbout("fox one", "fox?")->text, "");
}

TEST(AskCitationsTest, NumbersInBrackets) {
  EXPECT_THAT(CitedNumbers("a [2], b [1, 3] and [2]", 3), ElementsAre(1, 2, 3));
  EXPECT_THAT(CitedNumbers("[0] [4] [x] [99999999999999999999] 1]", 3), IsEmpty());
}

}  // namespace
}  // namespace tessera
