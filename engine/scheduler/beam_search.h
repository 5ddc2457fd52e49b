// Beam search as transformers defines it: which continuations of a request's beams go on, which are
// done, and when nothing better can come. Knows no model, blocks or threads.
#ifndef TESSERA_ENGINE_SCHEDULER_BEAM_SEARCH_H_
#define TESSERA_ENGINE_SCHEDULER_BEAM_SEARCH_H_

#include <cstdint>
#include <optional>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/types/span.h"
#include "engine/types.h"

namespace tessera {

// A beam's best next tokens, best first, with their log-probabilities.
using BeamCandidates = std::vector<TokenAlternative>;

// The sum of a beam's log-probabilities so far and what may follow it.
struct BeamRow {
  double sum = 0;
  const BeamCandidates* candidates = nullptr;
};

// Beam `parent` (an index into the rows) goes on with a token.
struct BeamStep {
  int32_t parent = 0;
  int32_t token = 0;
  float logprob = 0;
  double sum = 0;  // with this token
};

// A step, of beams with t tokens each:
// - Candidates are all beams' continuations by their sums of log-probabilities; equal sums: the
//   better beam first, then the lower id. Those that end the text are hypotheses if they are among
//   the first `width`. The best `width` others are the beams of the next step.
// - A hypothesis scores sum / (t + 1) ** length_penalty. The best `width` are kept, of equal ones
//   the earlier; none is added any more once there are `width` and early_stopping is kYes.
// - The search ends when no beam is left; with kYes when there are `width` hypotheses; and when
//   there are `width` and the best beam's sum / l ** length_penalty is not above the worst of them.
//   l is t + 1; with kNever and a positive length_penalty the most tokens that there can be.
class BeamSearch {
 public:
  BeamSearch(const BeamParams& params, int32_t max_tokens)
      : params_(params), max_tokens_(max_tokens) {}

  struct Callbacks {
    // Whether the text ends with this step.
    absl::FunctionRef<bool(const BeamStep&)> ends;
    // The step is a hypothesis at place `place` of those kept, from best to worst; who is beyond
    // `width` then falls out.
    absl::FunctionRef<void(const BeamStep&, double score, size_t place)> keep;
  };
  // One step: the beams of the next one, best first. Rows in the order that the last call returned.
  std::vector<BeamStep> Step(absl::Span<const BeamRow> rows, const Callbacks& callbacks);

  // Since the last step.
  bool done() const { return done_; }
  int32_t width() const { return params_.width; }

 private:
  bool IsFull() const { return scores_.size() >= static_cast<size_t>(params_.width); }
  void Keep(const BeamStep& step, const Callbacks& callbacks);
  double Score(double sum, int32_t length) const;
  bool CanImprove(double best_sum) const;

  const BeamParams params_;
  const int32_t max_tokens_;
  int32_t length_ = 0;          // tokens of each beam
  std::vector<double> scores_;  // of the hypotheses that are kept, best first
  bool done_ = false;
};

// How many candidates a row has to bring: the best `width` that do not end the text are among the
// best `width` and as many as there are tokens that end it. A structure may end with any token.
int32_t CandidatesPerBeam(const GenerateRequest& request, int32_t num_stop_ids);

}  // namespace tessera

#endif  // TESSERA_ENGINE_SCHEDULER_BEAM_SEARCH_H_
