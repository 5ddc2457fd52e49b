#include "server/thinking_choice.h"

#include <algorithm>
#include <array>
#include <string>
#include <string_view>

#include "absl/strings/ascii.h"

namespace tessera {
namespace {

constexpr size_t kReadBytes = 4096;  // at either end of a question
constexpr size_t kLongBytes = 1200;  // of a question that takes thought by its length alone
constexpr size_t kDoubtBytes = 120;  // of one that only doubts
constexpr int kMinNumbers = 2;

// Words in lower case. Those of ASCII letters stand alone in the text; others anywhere, for some
// languages write no spaces.
constexpr std::array<std::string_view, 39> kReasonWords = {
    "why",      "how",     "prove",     "proof",      "explain",      "derive",        "deduce",
    "compare",  "analyse", "analyze",   "evaluate",   "estimate",     "solve",         "optimise",
    "optimize", "puzzle",  "riddle",    "plan",       "step by step", "pros and cons", "warum",
    "wieso",    "beweise", "erkläre",   "vergleiche", "pourquoi",     "comment",       "prouve",
    "explique", "por qué", "demuestra", "explica",    "perché",       "dimostra",      "为什么",
    "怎么",     "证明",    "解释",      "почему"};
constexpr std::array<std::string_view, 33> kQuantityWords = {
    "plus",      "minus",      "times",    "divided",   "multiplied", "sum",      "difference",
    "product",   "percent",    "average",  "total",     "left",       "more",     "fewer",
    "less",      "altogether", "compute",  "calculate", "how many",   "how much", "remain",
    "remaining", "wie viele",  "wie viel", "combien",   "cuántos",    "cuánto",   "quanto",
    "加",        "减",         "乘",       "除",        "多少"};
constexpr std::array<std::string_view, 22> kCodeWords = {
    "```",        "code",   "function", "algorithm",  "program",   "python",
    "javascript", "c++",    "java",     "rust",       "sql",       "regex",
    "compile",    "bug",    "debug",    "refactor",   "implement", "exception",
    "unit test",  "script", "segfault", "stack trace"};
constexpr std::array<std::string_view, 14> kDoubtWords = {
    "wrong",  "are you sure", "incorrect", "check again", "not right", "mistake", "really",
    "falsch", "sicher",       "faux",      "incorrecto",  "错",        "不对",    "неправильно"};

bool IsLetter(char c) {
  return absl::ascii_isalnum(static_cast<unsigned char>(c)) || (c & 0x80) != 0;
}

bool HasWord(std::string_view text, std::string_view word) {
  const bool stands_alone = std::all_of(word.begin(), word.end(), [](char c) {
    return absl::ascii_isalpha(static_cast<unsigned char>(c)) || c == ' ';
  });
  for (size_t at = text.find(word); at != std::string_view::npos; at = text.find(word, at + 1)) {
    const size_t end = at + word.size();
    const bool begins = at == 0 || !IsLetter(text[at - 1]);
    const bool ends = end == text.size() || !IsLetter(text[end]);
    if (!stands_alone || (begins && ends)) return true;
  }
  return false;
}

template <size_t kCount>
bool HasAnyWord(std::string_view text, const std::array<std::string_view, kCount>& words) {
  return std::any_of(words.begin(), words.end(),
                     [text](std::string_view word) { return HasWord(text, word); });
}

bool IsDigit(char c) { return c >= '0' && c <= '9'; }

int CountNumbers(std::string_view text) {
  int count = 0;
  for (size_t i = 0; i < text.size(); ++i) {
    if (IsDigit(text[i]) && (i == 0 || !IsDigit(text[i - 1]))) ++count;
  }
  return count;
}

// "12 + 3", "4*5", "7 × 8", "x^2": an operator that has digits on one side at least.
bool HasOperator(std::string_view text) {
  constexpr std::array<std::string_view, 10> kOperators = {"+", "-", "*", "/", "^",
                                                           "%", "=", "×", "÷", "−"};
  for (const std::string_view sign : kOperators) {
    for (size_t at = text.find(sign); at != std::string_view::npos; at = text.find(sign, at + 1)) {
      size_t before = at;
      while (before > 0 && text[before - 1] == ' ') --before;
      size_t behind = at + sign.size();
      while (behind < text.size() && text[behind] == ' ') ++behind;
      const bool digit_before = before > 0 && IsDigit(text[before - 1]);
      const bool digit_behind = behind < text.size() && IsDigit(text[behind]);
      if (digit_before && (digit_behind || sign == "=" || sign == "%")) return true;
    }
  }
  return false;
}

bool HasSums(std::string_view text) {
  return CountNumbers(text) >= kMinNumbers &&
         (HasOperator(text) || HasAnyWord(text, kQuantityWords));
}

// Both ends of a text that may be long, in lower case.
std::string ReadPart(const std::string& text) {
  if (text.size() <= 2 * kReadBytes) return absl::AsciiStrToLower(text);
  return absl::AsciiStrToLower(text.substr(0, kReadBytes) + "\n" +
                               text.substr(text.size() - kReadBytes));
}

// The last switch of any user's message; Qwen3 follows the latest one.
std::optional<bool> Switch(const v1::ChatPrompt& chat) {
  for (int i = chat.messages_size() - 1; i >= 0; --i) {
    const v1::ChatMessage& message = chat.messages(i);
    if (message.role() != "user") continue;
    const size_t on = message.content().rfind("/think");
    const size_t off = message.content().rfind("/no_think");
    if (on == std::string::npos && off == std::string::npos) continue;
    if (on == std::string::npos) return false;
    return off == std::string::npos || on > off;
  }
  return std::nullopt;
}

bool HasAnswerBefore(const v1::ChatPrompt& chat, int question) {
  return std::any_of(chat.messages().begin(), chat.messages().begin() + question,
                     [](const v1::ChatMessage& message) { return message.role() == "assistant"; });
}

v1::ThinkingChoice Choice(bool thinks, v1::ThinkingChoice::Reason reason) {
  v1::ThinkingChoice choice;
  choice.set_thinks(thinks);
  choice.set_reason(reason);
  return choice;
}

}  // namespace

v1::ThinkingChoice ChooseThinking(const v1::ChatPrompt& chat) {
  if (const auto wanted = Switch(chat)) return Choice(*wanted, v1::ThinkingChoice::REASON_SWITCH);
  int question = chat.messages_size() - 1;
  if (question >= 0 && chat.messages(question).role() == "tool") {
    return Choice(false, v1::ThinkingChoice::REASON_TOOL_RESULT);
  }
  while (question >= 0 && chat.messages(question).role() != "user") --question;
  if (question < 0) return Choice(false, v1::ThinkingChoice::REASON_PLAIN);
  const std::string& content = chat.messages(question).content();
  const std::string text = ReadPart(content);
  if (content.size() <= kDoubtBytes && HasAnswerBefore(chat, question) &&
      HasAnyWord(text, kDoubtWords)) {
    return Choice(true, v1::ThinkingChoice::REASON_DOUBT);
  }
  if (HasSums(text)) return Choice(true, v1::ThinkingChoice::REASON_NUMBERS);
  if (HasAnyWord(text, kCodeWords)) return Choice(true, v1::ThinkingChoice::REASON_CODE);
  if (HasAnyWord(text, kReasonWords)) return Choice(true, v1::ThinkingChoice::REASON_REASONS);
  if (content.size() > kLongBytes) return Choice(true, v1::ThinkingChoice::REASON_LENGTH);
  return Choice(false, v1::ThinkingChoice::REASON_PLAIN);
}

std::optional<v1::ThinkingChoice> ChosenThinking(const v1::GenerateRequest& request) {
  if (request.reasoning().mode() != v1::ReasoningOptions::MODE_AUTO || !request.has_chat()) {
    return std::nullopt;
  }
  return ChooseThinking(request.chat());
}

std::optional<bool> EnableThinking(v1::ReasoningOptions::Mode mode, const v1::ChatPrompt& chat) {
  switch (mode) {
    case v1::ReasoningOptions::MODE_THINK:
      return true;
    case v1::ReasoningOptions::MODE_NO_THINK:
      return false;
    case v1::ReasoningOptions::MODE_AUTO:
      return ChooseThinking(chat).thinks();
    default:
      return std::nullopt;
  }
}

}  // namespace tessera
