// Documents cut into passages that a model can read at once.
#ifndef TESSERA_SERVER_ASK_PASSAGES_H_
#define TESSERA_SERVER_ASK_PASSAGES_H_

#include <cstdint>
#include <string>
#include <vector>

#include "server/ask/document.h"

namespace tessera {

struct Place {
  int32_t page = 0;  // 0: the document has no pages
  int32_t line = 0;
  bool operator==(const Place&) const = default;
};

struct Passage {
  int32_t document = 0;  // index
  Place begin;
  Place end;
  std::string text;  // lines, joined with line feeds
};

struct PassageSize {
  int32_t bytes = 1600;         // at most
  int32_t overlap_bytes = 240;  // of the passage before, repeated in whole lines; below bytes / 2
};

// In order. Together they hold all of the text; what stands at a border stands in two passages. A
// line that is longer than a passage is cut at blanks, where it has any.
std::vector<Passage> CutPassages(const std::vector<Document>& documents, const PassageSize& size);

// "manual.pdf, page 12, lines 3-20", "…, pages 12-13", "notes.md, line 7".
std::string PlaceText(const std::vector<Document>& documents, const Passage& passage);

}  // namespace tessera

#endif  // TESSERA_SERVER_ASK_PASSAGES_H_
