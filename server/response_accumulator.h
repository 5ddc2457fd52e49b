// Joins token deltas into one response message: the whole answer, or what piled up since the last
// message of a stream.
#ifndef TESSERA_SERVER_RESPONSE_ACCUMULATOR_H_
#define TESSERA_SERVER_RESPONSE_ACCUMULATOR_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "engine/types.h"
#include "tessera/v1/inference.pb.h"

namespace tessera {

// Not thread-safe.
class ResponseAccumulator {
 public:
  // `request`: what was asked for.
  void Begin(std::string request_id, const v1::GenerateRequest& request);

  // The accumulated message has at most one entry per choice.
  void Add(TokenDelta delta);
  bool empty() const { return pending_.choices_size() == 0; }
  // About how large the message is.
  int64_t bytes() const { return bytes_; }
  // The message, with the usage of all choices so far; leaves an empty one behind.
  v1::GenerateResponse Take();

 private:
  v1::Choice* ChoiceEntry(int32_t index);
  void AddSteps(const TokenDelta& delta, v1::Choice* choice);

  std::string request_id_;
  bool with_token_ids_ = true;
  bool with_steps_ = false;
  std::optional<v1::ThinkingChoice> thinking_;  // until the first message
  v1::GenerateResponse pending_;
  int64_t bytes_ = 0;
  std::vector<Usage> usage_;            // by choice
  std::vector<std::string> reasoning_;  // by choice, where steps are asked for
};

}  // namespace tessera

#endif  // TESSERA_SERVER_RESPONSE_ACCUMULATOR_H_
