#include "server/request_beams.h"

#include <string>

#include "absl/strings/str_cat.h"

namespace tessera {
namespace {

// Generous: sums of log-probabilities are divided by a length to this power.
constexpr double kMaxLengthPenalty = 10;
// Of a token that leaves the structure, in natural logarithms.
constexpr double kMaxGrammarPenalty = 1e6;

// What shapes a random draw, or depends on the tokens of one answer, says nothing about a search.
void RefuseSampling(const v1::GenerateRequest& request, FieldViolations* violations) {
  const v1::SamplingOptions& in = request.sampling();
  const auto refuse = [&](bool has_effect, const char* field) {
    if (has_effect) violations->Add(field, "has no meaning in a beam search; leave it out");
  };
  refuse(in.has_temperature() && in.temperature() != 0, "sampling.temperature");
  refuse(in.has_top_k() && in.top_k() > 0, "sampling.top_k");
  refuse(in.has_top_p() && in.top_p() != 1, "sampling.top_p");
  refuse(in.has_min_p() && in.min_p() != 0, "sampling.min_p");
  refuse(in.has_repetition_penalty() && in.repetition_penalty() != 1,
         "sampling.repetition_penalty");
  refuse(in.has_presence_penalty() && in.presence_penalty() != 0, "sampling.presence_penalty");
  refuse(in.has_frequency_penalty() && in.frequency_penalty() != 0, "sampling.frequency_penalty");
  refuse(request.stopping().stop_size() > 0, "stopping.stop");
}

// The model's defaults are about sampling, too.
void ForgetSampling(SamplingParams* sampling) {
  sampling->temperature = 0.0F;
  sampling->top_k = 0;
  sampling->top_p = 1.0F;
  sampling->min_p = 0.0F;
  sampling->repetition_penalty = 1.0F;
  sampling->presence_penalty = 0.0F;
  sampling->frequency_penalty = 0.0F;
}

void ReadEarlyStopping(const v1::BeamOptions& in, BeamParams* out, FieldViolations* violations) {
  switch (in.early_stopping()) {
    case v1::BeamOptions::EARLY_STOPPING_UNSPECIFIED:
    case v1::BeamOptions::EARLY_STOPPING_NO:
      out->early_stopping = BeamEarlyStopping::kNo;
      break;
    case v1::BeamOptions::EARLY_STOPPING_YES:
      out->early_stopping = BeamEarlyStopping::kYes;
      break;
    case v1::BeamOptions::EARLY_STOPPING_NEVER:
      out->early_stopping = BeamEarlyStopping::kNever;
      break;
    default:
      violations->Add("beams.early_stopping", "unknown value");
  }
}

}  // namespace

void ReadBeams(const v1::GenerateRequest& request, GenerateRequest* out,
               FieldViolations* violations) {
  if (!request.has_beams()) return;
  const v1::BeamOptions& in = request.beams();
  if (!violations->CheckInt("beams.width", in.width(), {1, kMaxBeamWidth})) return;
  const auto width = static_cast<int32_t>(in.width());
  if (out->n > width) {
    violations->Add("n", absl::StrCat("a search of ", width, " beams has at most as many answers, ",
                                      "got ", out->n));
  }
  BeamParams beams{.width = width};
  if (in.has_length_penalty() && violations->CheckReal("beams.length_penalty", in.length_penalty(),
                                                       {-kMaxLengthPenalty, kMaxLengthPenalty})) {
    beams.length_penalty = in.length_penalty();
  }
  ReadEarlyStopping(in, &beams, violations);
  if (in.has_grammar_penalty() &&
      violations->CheckReal("beams.grammar_penalty", in.grammar_penalty(),
                            {0, kMaxGrammarPenalty})) {
    beams.grammar_penalty = static_cast<float>(in.grammar_penalty());
    if (width == 1) violations->Add("beams.grammar_penalty", "needs a width of 2 or more");
  }
  RefuseSampling(request, violations);
  ForgetSampling(&out->sampling);
  if (width > 1) out->beams = beams;
}

}  // namespace tessera
