#include "engine/scheduler/prefill_pace.h"

#include <algorithm>

namespace tessera {
namespace {

constexpr double kWeight = 0.2;  // of the last step
// Fewer tokens say little about what one costs.
constexpr int32_t kLeastTokens = 16;
// A step is at least by this share its prompt's, however long other steps take.
constexpr double kLeastShare = 0.25;

void Average(double value, double* average) {
  *average += (*average == 0 ? 1 : kWeight) * (value - *average);
}

}  // namespace

void PrefillPace::Observe(int32_t prefill_tokens, absl::Duration step) {
  const double seconds = absl::ToDoubleSeconds(step);
  if (seconds <= 0) return;
  if (prefill_tokens == 0) return Average(seconds, &decode_seconds_);
  if (prefill_tokens < kLeastTokens) return;
  const double added = std::max(seconds - decode_seconds_, kLeastShare * seconds);
  Average(added / prefill_tokens, &token_seconds_);
}

int32_t PrefillPace::Chunk(int32_t most) const {
  if (token_seconds_ == 0) return most;
  const double bearable =
      std::max(absl::ToDoubleSeconds(kAddedTime), kAddedShare * decode_seconds_);
  const double tokens = std::min<double>(most, bearable / token_seconds_);
  // Kernels take rows by tiles.
  const int32_t whole = static_cast<int32_t>(tokens) / kLeastChunk * kLeastChunk;
  return std::min(most, std::max(whole, kLeastChunk));
}

}  // namespace tessera
