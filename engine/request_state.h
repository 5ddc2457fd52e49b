// What the engine keeps of a request from Submit to OnDone.
#ifndef TESSERA_ENGINE_REQUEST_STATE_H_
#define TESSERA_ENGINE_REQUEST_STATE_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "engine/output/output_processor.h"
#include "engine/scheduler/queue_limits.h"
#include "engine/scheduler/sequence.h"
#include "engine/types.h"

namespace tessera {

// A sequence is a choice of a request; its id says which one of whom. Beams are no choices, but
// have ids of the same kind.
inline SequenceId SequenceOf(RequestId request, int32_t choice) {
  return static_cast<SequenceId>(static_cast<uint64_t>(request) * kMaxChoices +
                                 static_cast<uint64_t>(choice));
}
inline RequestId RequestOf(SequenceId sequence) {
  return static_cast<RequestId>(static_cast<uint64_t>(sequence) / kMaxChoices);
}
inline int32_t ChoiceOf(SequenceId sequence) {
  return static_cast<int32_t>(static_cast<uint64_t>(sequence) % kMaxChoices);
}

struct ChoiceState {
  std::unique_ptr<Sequence> sequence;  // until the scheduler gets it
  std::unique_ptr<OutputProcessor> output;
};

// Made by the thread that submits, then used by the engine thread alone.
struct RequestState {
  RequestId id{};
  std::shared_ptr<const GenerateRequest> request;
  std::shared_ptr<ResponseSink> sink;
  std::vector<ChoiceState> choices;
  int32_t group = 0;           // data-parallel group
  int32_t num_unfinished = 0;  // choices
  bool in_queue = true;        // as far as the engine thread knows
  bool siblings_added = false;
  RequestTiming timing;

  // Ids of sequences that it may have: those of its choices, or of its beams and their successors.
  int32_t num_sequence_ids() const {
    return request->beams.search() ? 2 * request->beams.width : request->n;
  }
  int64_t prompt_tokens() const { return static_cast<int64_t>(request->prompt_ids.size()); }
  QueuedRequest queued() const {
    return {.id = id,
            .priority = request->priority,
            .tokens = prompt_tokens(),
            .tenant = request->tenant.name,
            .weight = request->tenant.weight};
  }
  Usage TotalUsage() const;
};

struct RequestDefaults {
  std::shared_ptr<const Tokenizer> tokenizer;
  std::vector<int32_t> eos_token_ids;
  int32_t think_start_id = -1;
  int32_t think_end_id = -1;
  int32_t max_model_len = 0;
  int32_t vocab_size = 0;
  uint64_t seed = 0;  // of this request, when it has none
  absl::Time now;     // by the engine's clock
};

// INVALID_ARGUMENT when the request can never run or its lists are too long for a step plan. Ids
// may come from a tokenizer that is not the model's: none beyond `vocab_size` gets through.
absl::Status CheckRequest(const GenerateRequest& request, int32_t max_model_len,
                          int32_t vocab_size);

// INVALID_ARGUMENT when the server cannot hold all beams of the request at once. Sharing nothing,
// that is, as when they were preempted; and with a block more, which lets the last in while others
// run. Sets max_tokens where the request does not, or has the end of the context for one.
absl::Status FitBeams(const SchedulerOptions& options, GenerateRequest* request);

std::unique_ptr<RequestState> MakeRequestState(RequestId id, GenerateRequest request,
                                               std::shared_ptr<ResponseSink> sink,
                                               const RequestDefaults& defaults);

}  // namespace tessera

#endif  // TESSERA_ENGINE_REQUEST_STATE_H_
