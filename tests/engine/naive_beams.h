// Beam search written from the definition in tests/data/reference/beam-goldens.json, one text after
// the other and each from its first token: an oracle that shares nothing with the engine's.
#ifndef TESSERA_TESTS_ENGINE_NAIVE_BEAMS_H_
#define TESSERA_TESTS_ENGINE_NAIVE_BEAMS_H_

#include <cstdint>
#include <functional>
#include <vector>

#include "engine/types.h"

namespace tessera {

struct NaiveText {
  std::vector<int32_t> tokens;
  double score = 0;
  bool by_length = false;
};

struct NaiveSearch {
  BeamParams beams;
  int32_t num_texts = 1;
  int32_t max_tokens = 1;
  int32_t min_tokens = 0;
  std::vector<int32_t> eos;
  // What may follow these output tokens, with log-probabilities, in any order.
  std::function<std::vector<TokenAlternative>(const std::vector<int32_t>&)> next;
};

// The best texts, best first.
std::vector<NaiveText> SearchNaively(const NaiveSearch& search);

}  // namespace tessera

#endif  // TESSERA_TESTS_ENGINE_NAIVE_BEAMS_H_
