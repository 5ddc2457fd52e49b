#include "server/ask/passages.h"

#include <algorithm>
#include <string_view>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "engine/text/utf8.h"

namespace tessera {
namespace {

struct Piece {
  Place place;
  std::string text;
};

// The longest beginning of at most `bytes` that ends at a blank, or between characters.
size_t CutAt(std::string_view text, size_t bytes) {
  if (text.size() <= bytes) return text.size();
  const size_t blank = text.substr(0, bytes).rfind(' ');
  if (blank != std::string_view::npos && blank > bytes / 2) return blank + 1;
  size_t end = bytes;
  while (end > 1 && (static_cast<unsigned char>(text[end]) & 0xC0U) == 0x80U) --end;
  return end;
}

std::vector<Piece> PiecesOf(const Document& document, size_t bytes) {
  std::vector<Piece> pieces;
  for (const DocumentLine& line : document.lines) {
    std::string_view rest = line.text;
    do {
      const size_t size = CutAt(rest, bytes);
      pieces.push_back({{line.page, line.number}, std::string(rest.substr(0, size))});
      rest.remove_prefix(size);
    } while (!rest.empty());
  }
  return pieces;
}

// Pieces [begin, end) without blank ones at the ends; nothing if there are no others.
void AddPassage(int32_t document, const std::vector<Piece>& pieces, size_t begin, size_t end,
                std::vector<Passage>* passages) {
  const auto is_blank = [&pieces](size_t i) {
    return absl::StripAsciiWhitespace(pieces[i].text).empty();
  };
  while (begin < end && is_blank(begin)) ++begin;
  while (begin < end && is_blank(end - 1)) --end;
  if (begin == end) return;
  Passage passage{.document = document, .begin = pieces[begin].place, .end = pieces[end - 1].place};
  for (size_t i = begin; i < end; ++i) {
    if (i > begin) passage.text.append("\n");
    passage.text.append(pieces[i].text);
  }
  passages->push_back(std::move(passage));
}

// The first piece of the passage behind one that ended at `end` and began at `begin`.
size_t NextBegin(const std::vector<Piece>& pieces, size_t begin, size_t end, size_t overlap) {
  size_t at = end;
  size_t bytes = 0;
  while (at > begin + 1) {
    bytes += pieces[at - 1].text.size() + 1;
    if (bytes > overlap) break;
    --at;
  }
  return at;
}

}  // namespace

std::vector<Passage> CutPassages(const std::vector<Document>& documents, const PassageSize& size) {
  const auto limit = static_cast<size_t>(std::max(size.bytes, 8));
  const auto overlap = std::min(static_cast<size_t>(std::max(size.overlap_bytes, 0)), limit / 2);
  std::vector<Passage> passages;
  for (size_t d = 0; d < documents.size(); ++d) {
    const std::vector<Piece> pieces = PiecesOf(documents[d], limit);
    size_t begin = 0;
    while (begin < pieces.size()) {
      size_t end = begin;
      size_t bytes = 0;
      while (end < pieces.size() && (end == begin || bytes + pieces[end].text.size() <= limit)) {
        bytes += pieces[end].text.size() + 1;
        ++end;
      }
      AddPassage(static_cast<int32_t>(d), pieces, begin, end, &passages);
      if (end == pieces.size()) break;
      begin = NextBegin(pieces, begin, end, overlap);
    }
  }
  return passages;
}

std::string PlaceText(const std::vector<Document>& documents, const Passage& passage) {
  const auto range = [](std::string_view one, int32_t begin, int32_t end) {
    return begin == end ? absl::StrCat(std::string(one), " ", begin)
                        : absl::StrCat(std::string(one), "s ", begin, "-", end);
  };
  std::string text = documents[static_cast<size_t>(passage.document)].name;
  const Place& begin = passage.begin;
  const Place& end = passage.end;
  if (begin.page != 0) absl::StrAppend(&text, ", ", range("page", begin.page, end.page));
  if (begin.page == end.page) absl::StrAppend(&text, ", ", range("line", begin.line, end.line));
  return text;
}

}  // namespace tessera
