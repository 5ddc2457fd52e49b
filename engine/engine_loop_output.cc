// What steps bring, counted and told.
#include <optional>
#include <utility>

#include "engine/engine_loop.h"

namespace tessera {
namespace {

absl::Status UnusableLogits(const GenerateRequest& request) {
  if (request.structure.structure != nullptr) {
    return absl::InternalError(
        "no token can be drawn that fits the structure: it is too ambiguous, or the logits are not "
        "finite");
  }
  if (!request.sampling.allowed_token_ids.empty()) {
    return absl::InvalidArgumentError(
        "no token can be drawn: allowed_token_ids, bad words and min_tokens leave none");
  }
  return absl::InternalError(
      "no token can be drawn: the logits are not finite or all banned (if it happens to every "
      "request the weights may be damaged: see \"tessera check\")");
}

}  // namespace

void EngineLoop::CountBeams(const SequenceUpdate& update) {
  for (const BeamHypothesis& text : *update.beams) {
    counters_.generation_tokens += static_cast<int64_t>(text.tokens.size());
    counters_.reasoning_tokens += text.reasoning_tokens;
  }
  const RequestState* state = Find(RequestOf(update.id));
  if (state == nullptr) return;
  counters_.prompt_tokens += state->prompt_tokens();
  counters_.prompt_tokens_cached += update.num_cached;
}

void EngineLoop::CountUpdate(const SequenceUpdate& update) {
  if (update.beams != nullptr) CountBeams(update);
  if (update.token < 0) return;
  ++counters_.generation_tokens;
  RequestState* state = Find(RequestOf(update.id));
  if (state == nullptr) return;
  const Usage& before = state->choices[ChoiceOf(update.id)].output->usage();
  counters_.reasoning_tokens += update.reasoning_tokens - before.reasoning_tokens;
  if (ChoiceOf(update.id) != 0 || state->siblings_added) return;
  counters_.prompt_tokens += state->prompt_tokens();
  counters_.prompt_tokens_cached += update.num_cached;
  AddSiblings(state);
}

// All at once. There may be fewer than choices: a structure may have fewer texts.
void EngineLoop::DeliverBeams(RequestState* state, const SequenceUpdate& update) {
  state->timing.first_token = state->timing.last_token = clock_.Now();
  state->num_unfinished = 0;
  for (size_t i = 0; i < update.beams->size(); ++i) {
    state->sink->OnTokens(
        state->choices[i].output->ProcessBeam((*update.beams)[i], update.num_cached));
  }
}

absl::Status EngineLoop::DeliverOne(RequestState* state, const SequenceUpdate& update,
                                    const BatchResult& result) {
  if (update.unusable) return UnusableLogits(*state->request);
  if (update.beams != nullptr) {
    DeliverBeams(state, update);
    return absl::OkStatus();
  }
  OutputProcessor& processor = *state->choices[ChoiceOf(update.id)].output;
  std::optional<TokenDelta> delta = processor.Process(update, result);
  if (!delta.has_value()) return absl::OkStatus();
  const absl::Time now = clock_.Now();
  if (state->timing.first_token == absl::Time()) state->timing.first_token = now;
  state->timing.last_token = now;
  if (processor.finished()) {
    --state->num_unfinished;
    if (!update.finish.has_value()) groups_[state->group]->Finish(update.id);  // a stop string
  }
  state->sink->OnTokens(*std::move(delta));
  return absl::OkStatus();
}

}  // namespace tessera
