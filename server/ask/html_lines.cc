#include <array>
#include <charconv>
#include <string>
#include <utility>

#include "absl/strings/ascii.h"
#include "engine/text/utf8.h"
#include "server/ask/document.h"

namespace tessera {
namespace {

constexpr size_t kMaxEntityBytes = 12;
constexpr std::array<std::string_view, 27> kBlocks = {
    "address", "article", "blockquote", "br",  "dd",      "div",   "dl",     "dt", "footer",
    "h1",      "h2",      "h3",         "h4",  "h5",      "h6",    "header", "hr", "li",
    "main",    "ol",      "p",          "pre", "section", "table", "title",  "tr", "ul"};
constexpr std::array<std::string_view, 4> kHidden = {"script", "style", "noscript", "template"};
constexpr std::array<std::pair<std::string_view, std::string_view>, 16> kEntities = {{
    {"amp", "&"},
    {"lt", "<"},
    {"gt", ">"},
    {"quot", "\""},
    {"apos", "'"},
    {"nbsp", " "},
    {"ndash", "–"},
    {"mdash", "—"},
    {"hellip", "…"},
    {"euro", "€"},
    {"copy", "©"},
    {"reg", "®"},
    {"lsquo", "‘"},
    {"rsquo", "’"},
    {"ldquo", "“"},
    {"rdquo", "”"},
}};

template <size_t kCount>
bool IsIn(std::string_view name, const std::array<std::string_view, kCount>& names) {
  for (const std::string_view known : names) {
    if (name == known) return true;
  }
  return false;
}

// The text of "&name;" or "&#123;" without & and ;. Empty: unknown.
std::string DecodeEntity(std::string_view name) {
  if (!name.starts_with('#')) {
    for (const auto& [known, text] : kEntities) {
      if (name == known) return std::string(text);
    }
    return "";
  }
  name.remove_prefix(1);
  const bool is_hex = name.starts_with('x') || name.starts_with('X');
  if (is_hex) name.remove_prefix(1);
  uint32_t code = 0;
  const auto [end, error] =
      std::from_chars(name.data(), name.data() + name.size(), code, is_hex ? 16 : 10);
  const bool is_scalar = code > 0 && code <= 0x10FFFF && (code < 0xD800 || code > 0xDFFF);
  if (error != std::errc() || end != name.data() + name.size() || !is_scalar) return "";
  std::string text;
  AppendUtf8(static_cast<char32_t>(code), &text);
  return text;
}

// Reads a page from its beginning to its end.
class HtmlReader {
 public:
  explicit HtmlReader(std::string_view html) : html_(html) {}

  std::vector<DocumentLine> Read() {
    while (at_ < html_.size()) {
      if (html_[at_] == '<' && ReadMarkup()) continue;
      if (html_[at_] == '&' && ReadEntity()) continue;
      AppendSource(html_[at_]);
      Skip(at_ + 1);
    }
    EndLine();
    return std::move(lines_);
  }

 private:
  // Goes on at `to`, counting line ends.
  void Skip(size_t to) {
    for (; at_ < to && at_ < html_.size(); ++at_) {
      if (html_[at_] == '\n') ++number_;
    }
  }

  // White space of the source is one blank.
  void AppendSource(char c) {
    const bool is_blank = absl::ascii_isspace(static_cast<unsigned char>(c));
    if (is_blank && (text_.empty() || text_.back() == ' ')) return;
    Append(std::string_view(is_blank ? " " : &c, 1));
  }

  void Append(std::string_view text) {
    if (text_.empty()) line_ = number_;
    text_.append(text);
  }

  void EndLine() {
    while (!text_.empty() && text_.back() == ' ') text_.pop_back();
    if (!text_.empty()) lines_.push_back({.page = 0, .number = line_, .text = text_});
    text_.clear();
  }

  // False: the '<' is text.
  bool ReadMarkup() {
    const std::string_view rest = html_.substr(at_);
    if (rest.starts_with("<!--")) {
      SkipBehind("-->");
      return true;
    }
    if (rest.size() < 2 || (rest[1] != '/' && rest[1] != '!' && rest[1] != '?' &&
                            !absl::ascii_isalpha(static_cast<unsigned char>(rest[1])))) {
      return false;
    }
    const bool is_end = rest[1] == '/';
    const std::string name = TagName(rest.substr(is_end ? 2 : 1));
    SkipTag();
    if (!is_end && IsIn(name, kHidden)) SkipBehind("</" + name);
    if (IsIn(name, kBlocks)) EndLine();
    if (name == "td" || name == "th") AppendSource(' ');
    return true;
  }

  static std::string TagName(std::string_view text) {
    size_t size = 0;
    while (size < text.size() && absl::ascii_isalnum(static_cast<unsigned char>(text[size]))) {
      ++size;
    }
    return absl::AsciiStrToLower(std::string(text.substr(0, size)));
  }

  // Values of attributes may hold '>'.
  void SkipTag() {
    char quote = 0;
    size_t end = at_;
    for (; end < html_.size(); ++end) {
      const char c = html_[end];
      if (quote != 0) {
        if (c == quote) quote = 0;
      } else if (c == '"' || c == '\'') {
        quote = c;
      } else if (c == '>') {
        break;
      }
    }
    // A quote that nothing closes would swallow the rest of the page.
    if (end == html_.size()) end = std::min(html_.find('>', at_), html_.size());
    Skip(end + 1);
  }

  // Behind the next `end` in any case of letters, and behind its tag.
  void SkipBehind(std::string_view end) {
    size_t found = at_;
    while (found < html_.size() &&
           absl::AsciiStrToLower(std::string(html_.substr(found, end.size()))) != end) {
      ++found;
    }
    Skip(found);
    if (at_ >= html_.size()) return;
    if (end == "-->") return Skip(found + end.size());
    SkipTag();
  }

  bool ReadEntity() {
    const size_t end = html_.substr(at_, kMaxEntityBytes).find(';');
    if (end == std::string_view::npos) return false;
    const std::string text = DecodeEntity(html_.substr(at_ + 1, end - 1));
    if (text.empty()) return false;
    Append(text);
    Skip(at_ + end + 1);
    return true;
  }

  const std::string_view html_;
  size_t at_ = 0;
  int32_t number_ = 1;  // of the source's line at at_
  int32_t line_ = 1;    // where text_ begins
  std::string text_;
  std::vector<DocumentLine> lines_;
};

}  // namespace

std::vector<DocumentLine> HtmlLines(std::string_view html) { return HtmlReader(html).Read(); }

}  // namespace tessera
