// The beams of one request and the texts that they have brought.
#ifndef TESSERA_ENGINE_SCHEDULER_BEAM_GROUP_H_
#define TESSERA_ENGINE_SCHEDULER_BEAM_GROUP_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "engine/scheduler/beam_search.h"
#include "engine/types.h"

namespace tessera {

class Sequence;

// A finished text of a beam search.
struct BeamHypothesis {
  std::vector<int32_t> tokens;          // output; the token that ends it included
  std::vector<TokenLogprobs> logprobs;  // one per token, when the request asks for them
  double score = 0;
  FinishReason reason = FinishReason::kStop;
  int32_t stop_token_id = -1;
  int32_t reasoning_tokens = 0;
  bool thinking_budget_enforced = false;
};

// What a search returns, best first: the request's n, fewer only if no more texts are possible.
using BeamResult = std::vector<BeamHypothesis>;

// Shared by the sequences of a request. Engine thread only.
struct BeamGroup {
  BeamGroup(const BeamParams& params, int32_t max_tokens) : search(params, max_tokens) {}

  BeamSearch search;
  std::vector<Sequence*> live;  // best first; the first step has one, of the prompt
  BeamResult hypotheses;        // best first
};

}  // namespace tessera

#endif  // TESSERA_ENGINE_SCHEDULER_BEAM_GROUP_H_
