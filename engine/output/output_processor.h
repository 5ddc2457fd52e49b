// From sampled tokens to what the client sees, one object per choice:
// detokeniser → reasoning → stop strings → tool calls → TokenDelta.
#ifndef TESSERA_ENGINE_OUTPUT_OUTPUT_PROCESSOR_H_
#define TESSERA_ENGINE_OUTPUT_OUTPUT_PROCESSOR_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "engine/output/confidence.h"
#include "engine/output/text_splitter.h"
#include "engine/scheduler/scheduler.h"
#include "engine/text/detokenizer.h"
#include "engine/types.h"

namespace tessera {

// Used by one thread at a time.
class OutputProcessor {
 public:
  OutputProcessor(std::shared_ptr<const Tokenizer> tokenizer,
                  std::shared_ptr<const GenerateRequest> request, int32_t choice);

  // What one step brought. nullopt while the prompt is computed. The delta with `finish` is the
  // last one; it is also set when a stop string ends the choice before the tokens do.
  std::optional<TokenDelta> Process(const SequenceUpdate& update, const BatchResult& result);

  // The text that a beam search chose for this choice, as its only delta.
  TokenDelta ProcessBeam(const BeamHypothesis& text, int32_t num_cached);

  const Usage& usage() const { return usage_; }
  bool finished() const { return finished_; }

 private:
  void CollectPromptLogprobs(const SequenceUpdate& update, const BatchResult& result);
  // True when a stop string was completed.
  bool AppendText(const SequenceUpdate& update, TokenDelta* delta);
  void FlushText(bool is_cut, TokenDelta* delta);
  void MeasureConfidence(const SequenceUpdate& update, const BatchResult& result);
  void FinishChoice(const SequenceUpdate& update, TokenDelta* delta);

  const std::shared_ptr<const GenerateRequest> request_;
  const int32_t choice_;
  const std::shared_ptr<const Tokenizer> tokenizer_;
  IncrementalDetokenizer detokenizer_;
  TextSplitter splitter_;
  ConfidenceMeter confidence_;
  Usage usage_;
  std::vector<TokenLogprobs> prompt_logprobs_;  // until the first delta
  bool finished_ = false;
};

// Row `row` of a result; `num_top` alternatives at most.
TokenLogprobs LogprobsOfRow(const BatchResult& result, int32_t row, int32_t num_top);

}  // namespace tessera

#endif  // TESSERA_ENGINE_OUTPUT_OUTPUT_PROCESSOR_H_
