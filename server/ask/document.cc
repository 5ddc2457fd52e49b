#include "server/ask/document.h"

#include <algorithm>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "engine/text/utf8.h"
#include "kernels/core/status_macros.h"
#include "kernels/core/text_file.h"
#include "server/ask/pdf_text.h"

namespace tessera {
namespace {

constexpr int64_t kMaxFileBytes = int64_t{256} << 20;

std::string BaseName(const std::string& path) { return path.substr(path.rfind('/') + 1); }

bool IsPdf(std::string_view bytes) { return bytes.substr(0, 1024).find("%PDF-") != bytes.npos; }

bool IsHtml(const std::string& path, std::string_view bytes) {
  const std::string name = absl::AsciiStrToLower(path);
  if (absl::EndsWith(name, ".html") || absl::EndsWith(name, ".htm") ||
      absl::EndsWith(name, ".xhtml")) {
    return true;
  }
  const std::string head = absl::AsciiStrToLower(std::string(bytes.substr(0, 512)));
  const std::string text(absl::StripLeadingAsciiWhitespace(head));
  return absl::StartsWith(text, "<!doctype html") || absl::StartsWith(text, "<html");
}

std::string ValidUtf8(std::string_view bytes) {
  std::string text;
  text.reserve(bytes.size());
  while (!bytes.empty()) {
    const size_t ascii = AsciiPrefixLength(bytes);
    text.append(bytes.substr(0, ascii));
    bytes.remove_prefix(ascii);
    if (bytes.empty()) break;
    const Utf8Unit unit = NextUtf8Unit(bytes);
    const bool is_character = unit.kind == Utf8Unit::Kind::kCharacter;
    text.append(is_character ? bytes.substr(0, unit.length) : std::string_view("\xEF\xBF\xBD"));
    bytes.remove_prefix(unit.length);
  }
  return text;
}

bool HasText(const Document& document) {
  return std::any_of(document.lines.begin(), document.lines.end(), [](const DocumentLine& line) {
    return !absl::StripAsciiWhitespace(line.text).empty();
  });
}

}  // namespace

std::vector<DocumentLine> TextLines(std::string_view text) {
  if (text.starts_with("\xEF\xBB\xBF")) text.remove_prefix(3);
  const bool has_pages = text.find('\f') != std::string_view::npos;
  std::vector<DocumentLine> lines;
  int32_t page = has_pages ? 1 : 0;
  int32_t number = 0;
  while (!text.empty()) {
    const size_t end = text.find_first_of("\n\f");
    std::string_view line = text.substr(0, end);
    if (line.ends_with('\r')) line.remove_suffix(1);
    ++number;
    if (end == std::string_view::npos) {
      lines.push_back({.page = page, .number = number, .text = ValidUtf8(line)});
      break;
    }
    const bool is_page_end = text[end] == '\f';
    if (!is_page_end || !line.empty()) {
      lines.push_back({.page = page, .number = number, .text = ValidUtf8(line)});
    }
    if (is_page_end) {
      ++page;
      number = 0;
    }
    text.remove_prefix(end + 1);
  }
  return lines;
}

absl::StatusOr<Document> ReadDocument(const std::string& path) {
  ASSIGN_OR_RETURN(std::string bytes, ReadTextFile(path, kMaxFileBytes));
  Document document{.name = BaseName(path)};
  if (IsPdf(bytes)) {
    ASSIGN_OR_RETURN(const std::string text, PdfText(path));
    document.lines = TextLines(text);
  } else if (IsHtml(path, bytes)) {
    document.lines = HtmlLines(ValidUtf8(bytes));
  } else if (bytes.find('\0') != std::string::npos) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, " is no text: text, Markdown, HTML and PDF can be read"));
  } else {
    document.lines = TextLines(bytes);
  }
  if (HasText(document)) return document;
  return absl::InvalidArgumentError(
      absl::StrCat(path, " holds no text", IsPdf(bytes) ? "; are its pages pictures?" : ""));
}

}  // namespace tessera
