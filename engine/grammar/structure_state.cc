#include "engine/grammar/structure_state.h"

#include <algorithm>
#include <utility>

#include "kernels/core/bit_mask.h"

namespace tessera {
namespace {

// Of the tokens that are left when thinking has to end, beyond those of the structure: </think> and
// what a budget forces behind it.
constexpr int64_t kTokensAroundThinkEnd = 3;
constexpr size_t kMaxSpaceBytes = size_t{64} << 20;

bool Holds(const std::vector<int32_t>& ids, int32_t id) {
  return std::find(ids.begin(), ids.end(), id) != ids.end();
}

std::shared_ptr<const TokenMask> With(const TokenMask& mask, int32_t token) {
  std::vector<int32_t> words = mask.words();
  AddToMask(words.data(), token);
  return std::make_shared<const TokenMask>(std::move(words));
}

}  // namespace

StructureState::StructureState(const StructureParams& params, const ReasoningParams& reasoning,
                               absl::Span<const int32_t> prompt)
    : params_(params), reasoning_(reasoning) {
  const Phase answer = params.optional_calls ? Phase::kFree : Phase::kArmed;
  phase_ = answer;
  if (reasoning.starts_closed || reasoning.start_token_id < 0 || reasoning.end_token_id < 0) return;
  if (reasoning.parse && !params.optional_calls) phase_ = Phase::kMayThink;
  const auto last = std::find_if(prompt.rbegin(), prompt.rend(), [&](int32_t id) {
    return id == reasoning.start_token_id || id == reasoning.end_token_id;
  });
  if (last != prompt.rend() && *last == reasoning.start_token_id) phase_ = Phase::kThinking;
}

void StructureState::Arm(bool after_thinking) {
  phase_ = Phase::kArmed;
  space_ = params_.structure->space();
  place_ = space_->Start(after_thinking);
}

void StructureState::RenewSpace() {
  if (space_->bytes() <= kMaxSpaceBytes) return;
  const std::shared_ptr<grammar::MatchSpace> fresh = params_.structure->Renew(space_);
  place_ = fresh->Import(*space_, place_);
  space_ = fresh;
}

bool StructureState::MustEndThinking(int64_t left) const {
  return phase_ == Phase::kThinking && !params_.optional_calls &&
         left <= params_.structure->shortest_tokens() + kTokensAroundThinkEnd;
}

const TokenMask* StructureState::Mask(int64_t left) {
  const grammar::TokenVocabulary& vocabulary = params_.structure->vocabulary();
  mask_ = nullptr;
  switch (phase_) {
    case Phase::kThinking:
      if (params_.optional_calls) return nullptr;
      if (MustEndThinking(left)) {
        mask_ = std::make_shared<const TokenMask>(std::vector<int32_t>{reasoning_.end_token_id},
                                                  vocabulary.vocab_size());
      } else {
        if (thought_mask_ == nullptr) {
          thought_mask_ = With(*vocabulary.texts(), reasoning_.end_token_id);
        }
        mask_ = thought_mask_;
      }
      break;
    case Phase::kMayThink: {
      if (space_ == nullptr) Arm(false);
      phase_ = Phase::kMayThink;
      mask_ = ArmedMask(left);
      const int64_t needed = params_.structure->shortest_tokens() + kTokensAroundThinkEnd + 1;
      if (left > needed) mask_ = With(*mask_, reasoning_.start_token_id);
      break;
    }
    case Phase::kFree:
      mask_ = FreeMask(left);
      break;
    case Phase::kArmed:
      if (space_ == nullptr) Arm(false);
      mask_ = ArmedMask(left);
      break;
    case Phase::kDone:
      mask_ =
          std::make_shared<const TokenMask>(vocabulary.end_token_ids(), vocabulary.vocab_size());
      break;
  }
  return mask_.get();
}

// A call that could not be finished any more is not begun.
std::shared_ptr<const TokenMask> StructureState::FreeMask(int64_t left) const {
  if (left > params_.structure->shortest_tokens()) return nullptr;
  const grammar::TokenVocabulary& vocabulary = params_.structure->vocabulary();
  std::vector<int32_t> words(MaskWords(vocabulary.vocab_size()), -1);
  const int32_t opener = params_.opening_token_id;
  words[opener / 32] &= ~static_cast<int32_t>(1U << (opener % 32));
  return std::make_shared<const TokenMask>(std::move(words));
}

std::shared_ptr<const TokenMask> StructureState::ArmedMask(int64_t left) {
  RenewSpace();
  const grammar::PlaceMask& mask = space_->Mask(place_);
  std::shared_ptr<const TokenMask> tokens = mask.tokens;
  if (space_->distance(place_) + mask.most_added < left) {
    way_.clear();
  } else {
    // Few tokens are left: only such are allowed behind which the rest suffices. The planned way
    // to the end always is, so something always is.
    std::vector<uint16_t> way = space_->Witness(place_);
    const grammar::TokenVocabulary& vocabulary = params_.structure->vocabulary();
    const bool keeps = !way_.empty() && vocabulary.CountTokens(way_) <= vocabulary.CountTokens(way);
    if (!keeps) way_ = std::move(way);
    int32_t length = 0;
    const int32_t next = way_.empty() ? -1 : space_->FirstToken(way_, &length);
    tokens = space_->MaskWithin(place_, left, next);
  }
  if (space_->overflowed()) {
    space_->ClearOverflow();
    broken_ = true;
  }
  return tokens;
}

StructureState::Verdict StructureState::Push(int32_t token) {
  if (broken_) return Verdict::kBroken;
  switch (phase_) {
    case Phase::kThinking:
      if (token == reasoning_.end_token_id) {
        if (params_.optional_calls) {
          phase_ = Phase::kFree;
        } else {
          Arm(true);
        }
      }
      return params_.optional_calls ? Verdict::kFree : Verdict::kGoOn;
    case Phase::kMayThink:
      if (token == reasoning_.start_token_id) {
        phase_ = Phase::kThinking;
        return Verdict::kGoOn;
      }
      break;
    case Phase::kFree:
      if (token == reasoning_.start_token_id) phase_ = Phase::kThinking;
      if (token != params_.opening_token_id) return Verdict::kFree;
      Arm(false);
      break;
    case Phase::kArmed:
      break;
    case Phase::kDone:
      return Verdict::kEnds;
  }
  if (space_ == nullptr || phase_ == Phase::kMayThink) Arm(false);
  return PushArmed(token);
}

StructureState::Verdict StructureState::PushArmed(int32_t token) {
  const grammar::TokenVocabulary& vocabulary = params_.structure->vocabulary();
  if (Holds(vocabulary.end_token_ids(), token)) {
    return space_->accepting(place_) ? Verdict::kEnds : Verdict::kBroken;
  }
  if (!way_.empty()) {
    int32_t length = 0;
    const bool planned = space_->FirstToken(way_, &length) == token;
    way_.erase(way_.begin(), planned ? way_.begin() + length : way_.end());
  }
  place_ = space_->StepToken(place_, token);
  if (space_->overflowed()) {
    space_->ClearOverflow();
    place_ = grammar::kNowhere;
  }
  if (place_ == grammar::kNowhere) return Verdict::kBroken;
  if (!space_->complete(place_)) return Verdict::kGoOn;
  if (!params_.optional_calls) return Verdict::kEnds;
  space_ = nullptr;
  phase_ = params_.single_call ? Phase::kDone : Phase::kFree;
  return params_.single_call ? Verdict::kEnds : Verdict::kGoOn;
}

}  // namespace tessera
