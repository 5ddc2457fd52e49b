// Which passages are about a question: BM25 over their words.
#ifndef TESSERA_SERVER_ASK_PASSAGE_INDEX_H_
#define TESSERA_SERVER_ASK_PASSAGE_INDEX_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "server/ask/passages.h"

namespace tessera {

// Words in lower case: letters and digits that stand together, without a plural s; of Chinese,
// Japanese and Korean text every character and every two neighbours.
std::vector<std::string> WordsOf(std::string_view text);

// Scores are Robertson's BM25 with k1 = 1.2, b = 0.75 and idf = ln(1 + (N - n + 0.5) / (n + 0.5)).
// Immutable once made.
class PassageIndex {
 public:
  explicit PassageIndex(const std::vector<Passage>& passages);

  struct Hit {
    int32_t passage = 0;
    double score = 0;
  };
  // The best `count`, best first, equal ones in the order of the text; none without a common word.
  std::vector<Hit> Find(std::string_view question, size_t count) const;

 private:
  struct Posting {
    int32_t passage;
    int32_t count;
  };

  absl::flat_hash_map<std::string, std::vector<Posting>> postings_;
  std::vector<int32_t> lengths_;  // words, by passage
  double mean_length_ = 0;
};

}  // namespace tessera

#endif  // TESSERA_SERVER_ASK_PASSAGE_INDEX_H_
