// Questions about documents: the passages that may answer are read one by one, and what they say
// becomes one answer.
#ifndef TESSERA_SERVER_ASK_ASK_H_
#define TESSERA_SERVER_ASK_ASK_H_

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "server/ask/document.h"
#include "server/ask/passage_index.h"
#include "server/ask/passages.h"
#include "server/text_generator.h"

namespace tessera {

struct AskOptions {
  int32_t passages = 6;     // read for a question
  int32_t concurrency = 8;  // passages at a time
  int64_t max_answer_tokens = 400;
  // What has been read so far: passages done and all of them. May be null.
  std::function<void(int32_t done, int32_t all)> on_progress;
};

// What one passage says to the question.
struct PassageNote {
  int32_t passage = 0;  // index
  double score = 0;     // of the search
  std::string text;     // empty: nothing
};

struct AskAnswer {
  std::string text;                // empty: the documents do not answer
  std::vector<PassageNote> notes;  // of the passages that were read, best first
  std::vector<int32_t> sources;    // indices of passages that the answer rests on, best first
};

// Every passage is asked for alone ("map"), with the question behind it, so that its beginning is
// in the prefix cache for the next question; notes that say something become the answer
// ("compose"), which names those it uses as [1], [2], …: these are the sources, or all if it names
// none. One note alone is the answer. Greedy and without thinking, so the same every time.
absl::StatusOr<AskAnswer> Ask(TextGenerator* generator, const std::vector<Document>& documents,
                              const std::vector<Passage>& passages, const PassageIndex& index,
                              const std::string& question, const AskOptions& options);

// The numbers in brackets of a text, each once, in [1, most].
std::vector<int32_t> CitedNumbers(const std::string& text, int32_t most);

}  // namespace tessera

#endif  // TESSERA_SERVER_ASK_ASK_H_
