#include "engine/scheduler/sequence.h"

#include <algorithm>
#include <utility>

namespace tessera {
namespace {

int32_t TokenLimit(const GenerateRequest& request, int32_t max_model_len) {
  const int64_t prompt = static_cast<int64_t>(request.prompt_ids.size());
  const int64_t wanted = prompt + request.stopping.max_tokens.value_or(max_model_len);
  return static_cast<int32_t>(std::min<int64_t>(wanted, max_model_len));
}

}  // namespace

Sequence::Sequence(SequenceInit init, int32_t max_model_len)
    : init_(std::move(init)),
      prompt_length_(static_cast<int32_t>(init_.request->prompt_ids.size())),
      max_tokens_(TokenLimit(*init_.request, max_model_len)),
      tokens_(init_.request->prompt_ids),
      thinking_(init_.request->reasoning, init_.request->prompt_ids) {
  const SamplingParams& sampling = request().sampling;
  if (request().structure.structure != nullptr) {
    structure_ = std::make_unique<StructureState>(request().structure, request().reasoning,
                                                  request().prompt_ids);
  }
  lists_prompt_tokens_ = sampling.repetition_penalty != 1.0F;
  counts_output_ = lists_prompt_tokens_ || sampling.presence_penalty != 0.0F ||
                   sampling.frequency_penalty != 0.0F;
  if (lists_prompt_tokens_) token_counts_.AddPrompt(tokens_);
  bans_long_words_ = std::any_of(sampling.bad_words.begin(), sampling.bad_words.end(),
                                 [](const auto& word) { return word.size() > 1; });
}

bool Sequence::needs_prompt_logprobs() const {
  return init_.wants_prompt_logprobs && num_prompt_logprobs < prompt_length_ - 1;
}

bool Sequence::reads_prefix_cache() const {
  return request().use_prefix_cache && !needs_prompt_logprobs();
}

bool Sequence::CanBePlanned() const {
  if (num_drawing == 0) return true;
  if (counts_answer() && !may_stop() && !in_min_tokens()) return false;
  return structure_ == nullptr && next_position() < max_tokens_ && !bans_long_words_ &&
         !thinking_.MayForceAfter(num_drawing);
}

const TokenMask* Sequence::NextMask() {
  return structure_ != nullptr ? structure_->Mask(max_tokens_ - num_tokens()) : init_.mask.get();
}

int32_t Sequence::ForcedToken() const {
  const bool must_end =
      structure_ != nullptr && structure_->MustEndThinking(max_tokens_ - num_tokens());
  return must_end ? -1 : thinking_.ForcedToken();
}

bool Sequence::Append(int32_t token, TokenFinish* finish) {
  bool may_end = may_stop();
  tokens_.push_back(token);
  if (counts_output_) token_counts_.AddOutput(token);
  thinking_.Push(token);
  if (structure_ != nullptr) {
    const StructureState::Verdict verdict = structure_->Push(token);
    in_structure_ = verdict != StructureState::Verdict::kFree;
    structure_broken_ = verdict == StructureState::Verdict::kBroken;
    if (structure_broken_) return true;
    if (verdict == StructureState::Verdict::kEnds) {
      const bool by_token = std::binary_search(stop_ids().begin(), stop_ids().end(), token);
      *finish = {.reason = FinishReason::kStop, .stop_token_id = by_token ? token : -1};
      return true;
    }
    may_end = may_end && !in_structure_;
  }
  if (may_end && std::binary_search(stop_ids().begin(), stop_ids().end(), token)) {
    *finish = {.reason = FinishReason::kStop, .stop_token_id = token};
    return true;
  }
  if (num_tokens() >= max_tokens_) {
    *finish = {.reason = FinishReason::kLength};
    return true;
  }
  return false;
}

}  // namespace tessera
