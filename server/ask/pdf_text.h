// The text of a PDF file, by the program pdftotext of Poppler.
#ifndef TESSERA_SERVER_ASK_PDF_TEXT_H_
#define TESSERA_SERVER_ASK_PDF_TEXT_H_

#include <string>

#include "absl/status/statusor.h"

namespace tessera {

// UTF-8; a form feed ends every page. FAILED_PRECONDITION without the program, INVALID_ARGUMENT
// with its words for a file that it cannot read, or whose text is larger than 256 MiB.
absl::StatusOr<std::string> PdfText(const std::string& path);

}  // namespace tessera

#endif  // TESSERA_SERVER_ASK_PDF_TEXT_H_
