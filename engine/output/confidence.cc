#include "engine/output/confidence.h"

#include <algorithm>
#include <cmath>

namespace tessera {

void ConfidenceMeter::Add(const Token& token) {
  const bool is_blank = token.text.find_first_not_of(" \n\t\r") == std::string_view::npos;
  if (!token.is_answer || (count_ == 0 && is_blank)) return;
  const double probability = std::exp(static_cast<double>(token.logprob));
  sum_ += probability;
  lowest_ = std::min(lowest_, probability);
  ++count_;
}

std::optional<Confidence> ConfidenceMeter::result() const {
  if (count_ == 0) return std::nullopt;
  return Confidence{.mean = static_cast<float>(sum_ / count_),
                    .lowest = static_cast<float>(lowest_),
                    .num_tokens = count_};
}

}  // namespace tessera
