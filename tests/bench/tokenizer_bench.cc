// Speed of the tokenizer on one thread: MB/s of encode and decode on mixed text, and the time to
// load the real tokenizer.json, in CPU time. Prints one line per measurement.
//   build/cpu-release/tests/bench/tokenizer_bench
#include <algorithm>
#include <cstdio>
#include <ctime>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "engine/text/tokenizer.h"
#include "tests/engine/text/reference_tokenizer.h"

namespace tessera {
namespace {

constexpr std::string_view kEnglish =
    "When the library closed for the winter, Marta carried the last box of letters home on her "
    "bicycle. She hadn't planned to read them; they weren't hers. But the rain had softened the "
    "cardboard, and by the time she reached the bridge there was nothing to do except stop, "
    "spread them out under the shelter, and let them dry. \"It's only paper,\" she told herself, "
    "counting 47 envelopes, three postcards and a train ticket dated 12 March 1968.\n\n";

constexpr std::string_view kCode =
    "template <typename Key, typename Value>\n"
    "bool BoundedCache<Key, Value>::Insert(const Key& key, Value value) {\n"
    "  if (entries_.size() >= capacity_ && !EvictOldest()) {\n"
    "    return false;  // everything is pinned\n"
    "  }\n"
    "\tentries_.emplace(key, Entry{.value = std::move(value), .stamp = ++clock_});\n"
    "  return true;\n"
    "}\n\n"
    "def mean(xs: list[float]) -> float:\n"
    "    \"\"\"Arithmetic mean; 0.0 for an empty list.\"\"\"\n"
    "    return sum(xs) / len(xs) if xs else 0.0\n\n"
    "{\"name\": \"probe\", \"ports\": [8080, 9090], \"labels\": {\"tier\": \"edge\"}}\n";

constexpr std::string_view kChinese =
    "今天早上下了一场小雨,街道两旁的银杏树叶被洗得发亮。老张推着自行车慢慢走过菜市场,"
    "买了两斤西红柿和一把香菜,又在路口的书摊前停下来翻了翻旧杂志。"
    "摊主笑着说:“这本1987年的,只要五块钱。”\n";

// clang-format 14 counts the columns of these scripts differently in every pass.
// clang-format off
constexpr std::string_view kMixedScripts =
    "Überraschung: naïve façade, crème brûlée à la carte. Привет, как дела сегодня вечером? "
    "これは日本語の文章です。カタカナとひらがなが混ざっています。 한국어 문장도 하나 넣어 봅시다. "
    "שלום עולם مرحبا بالعالم नमस्ते दुनिया 🙂🚀👩‍👩‍👧 €12,50 → ½ × ∞\n";
// clang-format on

std::string MixedText(size_t bytes) {
  std::string goldens;
  for (const TokenizerGolden& golden : ReadTokenizerGoldens()) {
    if (golden.text.size() < 2000) goldens.append(golden.text).append("\n");
  }
  std::string text;
  while (text.size() < bytes) {
    for (int i = 0; i < 12; ++i) text.append(kEnglish);
    for (int i = 0; i < 6; ++i) text.append(kCode);
    for (int i = 0; i < 6; ++i) text.append(kChinese);
    for (int i = 0; i < 2; ++i) text.append(kMixedScripts);
    text.append(goldens, 0, 4096);
  }
  return text;
}

std::string Repeat(std::string_view unit, size_t bytes) {
  std::string text;
  while (text.size() < bytes) text.append(unit);
  return text;
}

// Median of seven runs in seconds of CPU time, which other processes disturb less than the clock.
double MedianSeconds(const std::function<void()>& work) {
  std::vector<double> seconds;
  for (int run = 0; run < 7; ++run) {
    const std::clock_t start = std::clock();
    work();
    seconds.push_back(static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC);
  }
  std::sort(seconds.begin(), seconds.end());
  return seconds[seconds.size() / 2];
}

void ReportEncode(const Tokenizer& tokenizer, const char* name, const std::string& text) {
  size_t tokens = 0;
  const double seconds =
      MedianSeconds([&] { tokens = tokenizer.Encode(text, {.parse_added_tokens = true})->size(); });
  std::printf("encode %-10s %7.1f MB/s  %6.2f Mtok/s  %4.2f bytes/token\n", name,
              static_cast<double>(text.size()) / seconds / 1e6,
              static_cast<double>(tokens) / seconds / 1e6,
              static_cast<double>(text.size()) / static_cast<double>(tokens));
}

void Run() {
  const TokenizerSources& sources = ReferenceTokenizerSources();
  const double load = MedianSeconds([&] {
    if (!Tokenizer::Parse(sources).ok()) std::printf("load failed\n");
  });
  std::printf("load tokenizer.json (%.1f MB) %.0f ms\n",
              static_cast<double>(sources.tokenizer_json.size()) / 1e6, load * 1e3);

  const auto tokenizer = ReferenceTokenizer();
  constexpr size_t kBytes = 4'000'000;
  const std::string mixed = MixedText(kBytes);
  ReportEncode(*tokenizer, "mixed", mixed);
  ReportEncode(*tokenizer, "english", Repeat(kEnglish, kBytes));
  ReportEncode(*tokenizer, "code", Repeat(kCode, kBytes));
  ReportEncode(*tokenizer, "chinese", Repeat(kChinese, kBytes));
  ReportEncode(*tokenizer, "scripts", Repeat(kMixedScripts, kBytes));
  ReportEncode(*tokenizer, "goldens", Repeat(mixed.substr(mixed.size() - 4096), kBytes));

  const auto ids = *tokenizer->Encode(mixed, {.parse_added_tokens = true});
  const double decode = MedianSeconds([&] { (void)tokenizer->Decode(ids, false); });
  std::printf("decode %-10s %7.1f MB/s\n", "mixed",
              static_cast<double>(mixed.size()) / decode / 1e6);
}

}  // namespace
}  // namespace tessera

int main() {
  tessera::Run();
  return 0;
}
