// Where the output of one choice is in its structure, and what may be drawn next.
#ifndef TESSERA_ENGINE_GRAMMAR_STRUCTURE_STATE_H_
#define TESSERA_ENGINE_GRAMMAR_STRUCTURE_STATE_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/types/span.h"
#include "engine/grammar/structure.h"
#include "engine/grammar/token_mask.h"
#include "engine/types.h"

namespace tessera {

// Thinking is free; the structure begins behind </think>, or at once where the model does not
// think. With StructureParams::optional_calls text is free, too, and the structure begins with the
// token that opens a call.
//
// From the first token on as many are kept as the structure needs to be finished, </think>
// included: if `left` was enough at the start (Structure::shortest_tokens), the output is complete
// when they are used up. Engine thread only.
class StructureState {
 public:
  // The parameters must outlive the object. Nothing is computed before the first call.
  StructureState(const StructureParams& params, const ReasoningParams& reasoning,
                 absl::Span<const int32_t> prompt);

  // What the next draw may choose from; null: every token. `left`: tokens to draw, this one
  // included, at least 1. Valid until the next call.
  const TokenMask* Mask(int64_t left);
  // The next draw has to end the thinking, whatever else would be forced.
  bool MustEndThinking(int64_t left) const;

  enum class Verdict : uint8_t {
    kFree,  // the token is not part of the structure: the usual rules say whether it ends the text
    kGoOn,  // part of it, or of the thinking in front of it; nothing else ends the text here
    kEnds,  // the structure ends here
    kBroken,  // the token cannot follow, or finding out took too long
  };
  Verdict Push(int32_t token);

 private:
  enum class Phase : uint8_t { kMayThink, kThinking, kFree, kArmed, kDone };

  void Arm(bool after_thinking);
  void RenewSpace();
  Verdict PushArmed(int32_t token);
  std::shared_ptr<const TokenMask> ArmedMask(int64_t left);
  std::shared_ptr<const TokenMask> FreeMask(int64_t left) const;

  const StructureParams& params_;
  const ReasoningParams& reasoning_;
  Phase phase_ = Phase::kArmed;
  bool broken_ = false;
  std::shared_ptr<grammar::MatchSpace> space_;  // since it is armed
  grammar::PlaceId place_ = grammar::kNowhere;
  std::vector<uint16_t> way_;  // to the end, planned when few tokens are left; else empty
  std::shared_ptr<const TokenMask> thought_mask_;  // once it was needed
  std::shared_ptr<const TokenMask> mask_;
};

}  // namespace tessera

#endif  // TESSERA_ENGINE_GRAMMAR_STRUCTURE_STATE_H_
