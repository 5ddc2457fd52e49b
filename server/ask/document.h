// Files that questions are asked about, as lines of text with their places.
#ifndef TESSERA_SERVER_ASK_DOCUMENT_H_
#define TESSERA_SERVER_ASK_DOCUMENT_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace tessera {

struct DocumentLine {
  int32_t page = 0;    // from 1; 0: the document has no pages
  int32_t number = 0;  // from 1: of the page, or of the file where there are none
  std::string text;    // valid UTF-8, without its end
};

struct Document {
  std::string name;  // of the file, without its folders
  std::vector<DocumentLine> lines;
};

// By the file's beginning and its name: PDF (by the program pdftotext), HTML (*.html, *.htm,
// *.xhtml, or it begins so), else text and Markdown. A form feed ends a page. At most 256 MiB.
// Errors name the file: NOT_FOUND, INVALID_ARGUMENT for what holds no text, FAILED_PRECONDITION
// without pdftotext.
absl::StatusOr<Document> ReadDocument(const std::string& path);

// The lines of a text; bytes that are no UTF-8 become U+FFFD.
std::vector<DocumentLine> TextLines(std::string_view text);
// The visible text of a page, with the numbers of the source's lines. Scripts, styles and comments
// are left out; blocks begin lines of their own; entities are decoded.
std::vector<DocumentLine> HtmlLines(std::string_view html);

}  // namespace tessera

#endif  // TESSERA_SERVER_ASK_DOCUMENT_H_
