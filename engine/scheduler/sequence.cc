#include "engine/scheduler/sequence.h"

#include <algorithm>
#include <utility>

#include "kernels/core/bit_mask.h"

namespace tessera {
namespace {

int32_t TokenLimit(const GenerateRequest& request, int32_t max_model_len) {
  const int64_t prompt = static_cast<int64_t>(request.prompt_ids.size());
  const int64_t wanted = prompt + request.stopping.max_tokens.value_or(max_model_len);
  return static_cast<int32_t>(std::min<int64_t>(wanted, max_model_len));
}

SequenceInit WithId(SequenceInit init, SequenceId id) {
  init.id = id;
  return init;
}

}  // namespace

// What a beam is; its progress begins anew.
Sequence::Sequence(const Sequence& parent, SequenceId id)
    : num_preemptions(parent.num_preemptions),
      num_prompt_logprobs(parent.num_prompt_logprobs),
      num_cached(parent.num_cached),
      beam_sum(parent.beam_sum),
      beam_logprobs(parent.beam_logprobs),
      init_(WithId(parent.init_, id)),
      prompt_length_(parent.prompt_length_),
      max_tokens_(parent.max_tokens_),
      tokens_(parent.tokens_),
      bans_long_words_(parent.bans_long_words_),
      thinking_(parent.thinking_),
      in_structure_(parent.in_structure_) {
  if (parent.structure_ == nullptr) return;
  structure_ = std::make_unique<StructureState>(*parent.structure_);
  mask_ = parent.mask_;  // which the two states share
}

std::unique_ptr<Sequence> Sequence::Fork(SequenceId id) const {
  return std::unique_ptr<Sequence>(new Sequence(*this, id));
}

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
  if (beams() != nullptr) return num_drawing == 0 && !candidates.has_value();
  if (num_drawing == 0) return true;
  if (counts_answer() && !may_stop() && !in_min_tokens()) return false;
  return structure_ == nullptr && next_position() < max_tokens_ && !bans_long_words_ &&
         !thinking_.MayForceAfter(num_drawing);
}

const TokenMask* Sequence::NextMask() {
  mask_ = structure_ != nullptr ? structure_->Mask(max_tokens_ - num_tokens()) : init_.mask.get();
  return mask_;
}

int32_t Sequence::ForcedToken() const {
  const bool must_end =
      structure_ != nullptr && structure_->MustEndThinking(max_tokens_ - num_tokens());
  return must_end ? -1 : thinking_.ForcedToken();
}

bool Sequence::LeavesStructure(int32_t token) const {
  const bool may_leave = structure_ != nullptr && request().beams.grammar_penalty.has_value();
  // A forced token asks no mask, and mask_ is of an earlier step.
  if (!may_leave || mask_ == nullptr || ForcedToken() >= 0) return false;
  return !IsInMask(mask_->words().data(), token);
}

bool Sequence::Ends(int32_t token, StructureState::Verdict verdict, bool may_end, int32_t length,
                    TokenFinish* finish) const {
  const bool stops = std::binary_search(stop_ids().begin(), stop_ids().end(), token);
  const bool free = verdict == StructureState::Verdict::kFree;
  if (verdict == StructureState::Verdict::kEnds || (free && may_end && stops)) {
    *finish = {.reason = FinishReason::kStop, .stop_token_id = stops ? token : -1};
    return true;
  }
  if (length < max_tokens_) return false;
  *finish = {.reason = FinishReason::kLength};
  return true;
}

bool Sequence::WouldEnd(int32_t token, TokenFinish* finish) const {
  auto verdict = StructureState::Verdict::kFree;
  if (structure_ != nullptr && !LeavesStructure(token)) {
    StructureState next = *structure_;
    verdict = next.Push(token);
  }
  return Ends(token, verdict, may_stop(), num_tokens() + 1, finish);
}

bool Sequence::Append(int32_t token, TokenFinish* finish) {
  if (LeavesStructure(token)) structure_ = nullptr;
  const bool may_end = may_stop();
  tokens_.push_back(token);
  if (counts_output_) token_counts_.AddOutput(token);
  thinking_.Push(token);
  auto verdict = StructureState::Verdict::kFree;
  if (structure_ != nullptr) verdict = structure_->Push(token);
  in_structure_ = verdict != StructureState::Verdict::kFree;
  structure_broken_ = verdict == StructureState::Verdict::kBroken;
  return structure_broken_ || Ends(token, verdict, may_end, num_tokens(), finish);
}

}  // namespace tessera
