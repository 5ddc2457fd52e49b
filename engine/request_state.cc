#include "engine/request_state.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/types/span.h"
#include "engine/grammar/structure.h"
#include "kernels/core/status_macros.h"

namespace tessera {
namespace {

std::vector<int32_t> StopIds(const GenerateRequest& request, const std::vector<int32_t>& eos) {
  std::vector<int32_t> ids = request.stopping.stop_token_ids;
  if (!request.stopping.ignore_eos) ids.insert(ids.end(), eos.begin(), eos.end());
  std::sort(ids.begin(), ids.end());
  ids.erase(std::unique(ids.begin(), ids.end()), ids.end());
  return ids;
}

absl::Status CheckIds(absl::Span<const int32_t> ids, int32_t vocab_size) {
  for (const int32_t id : ids) {
    if (id >= 0 && id < vocab_size) continue;
    return absl::InvalidArgumentError(
        absl::StrCat("token id ", id, " is not one of the model's ", vocab_size));
  }
  return absl::OkStatus();
}

absl::Status CheckCount(const char* list, size_t count, int32_t most) {
  if (count <= static_cast<size_t>(most)) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(list, " has ", count, " entries, at most ", most, " are possible"));
}

absl::Status CheckBeams(const GenerateRequest& request, int32_t vocab_size) {
  const BeamParams& beams = request.beams;
  if (!beams.search()) return absl::OkStatus();
  if (beams.width > kMaxBeamWidth || request.n > beams.width) {
    return absl::InvalidArgumentError(absl::StrCat("a beam search of ", beams.width, " beams for ",
                                                   request.n, " choices: at most ", kMaxBeamWidth,
                                                   " beams, and a beam per choice, are possible"));
  }
  const SamplingParams& sampling = request.sampling;
  if (sampling.repetition_penalty != 1.0F || sampling.presence_penalty != 0.0F ||
      sampling.frequency_penalty != 0.0F || !request.stopping.stop.empty()) {
    return absl::InvalidArgumentError("a beam search knows neither penalties nor stop strings");
  }
  // Its rows list so many tokens; one for each that may end the text is listed more.
  if (3 * beams.width > vocab_size) {
    return absl::InvalidArgumentError(
        absl::StrCat(beams.width, " beams are too many for ", vocab_size, " tokens"));
  }
  return absl::OkStatus();
}

}  // namespace

Usage RequestState::TotalUsage() const {
  Usage total = choices.front().output->usage();
  for (size_t i = 1; i < choices.size(); ++i) {
    total.completion_tokens += choices[i].output->usage().completion_tokens;
    total.reasoning_tokens += choices[i].output->usage().reasoning_tokens;
  }
  return total;
}

absl::Status CheckRequest(const GenerateRequest& request, int32_t max_model_len,
                          int32_t vocab_size) {
  const SamplingParams& sampling = request.sampling;
  RETURN_IF_ERROR(CheckCount("logit_bias", sampling.logit_bias.size(), kMaxLogitBias));
  RETURN_IF_ERROR(CheckCount("bad_words", sampling.bad_words.size(), kMaxBadWords));
  RETURN_IF_ERROR(
      CheckCount("stop_token_ids", request.stopping.stop_token_ids.size(), kMaxStopIds));
  RETURN_IF_ERROR(CheckIds(request.prompt_ids, vocab_size));
  RETURN_IF_ERROR(CheckIds(request.reasoning.close_token_ids, vocab_size));
  RETURN_IF_ERROR(CheckIds(request.sampling.allowed_token_ids, vocab_size));
  for (const auto& [id, bias] : request.sampling.logit_bias) {
    RETURN_IF_ERROR(CheckIds({id}, vocab_size));
  }
  for (const std::vector<int32_t>& word : request.sampling.bad_words) {
    RETURN_IF_ERROR(CheckIds(word, vocab_size));
  }
  const auto prompt = static_cast<int64_t>(request.prompt_ids.size());
  if (prompt == 0) return absl::InvalidArgumentError("the prompt has no tokens");
  if (prompt >= max_model_len) {
    return absl::InvalidArgumentError(absl::StrCat("the prompt has ", prompt,
                                                   " tokens, the context limit is ", max_model_len,
                                                   " tokens including at least one of output"));
  }
  const int64_t max_tokens = request.stopping.max_tokens.value_or(1);
  if (max_tokens < 1) return absl::InvalidArgumentError("max_tokens must be at least 1");
  if (prompt + max_tokens > max_model_len) {
    return absl::InvalidArgumentError(
        absl::StrCat("the prompt has ", prompt, " tokens and max_tokens is ", max_tokens,
                     ", the context limit is ", max_model_len, "; lower max_tokens to ",
                     max_model_len - prompt));
  }
  RETURN_IF_ERROR(CheckBeams(request, vocab_size));
  if (request.n < 1 || request.n > kMaxChoices) {
    return absl::InvalidArgumentError(absl::StrCat("n must be 1 to ", kMaxChoices));
  }
  return absl::OkStatus();
}

// Every beam of a request has to find room at the same time, sharing nothing, when it was
// preempted; and a block more lets it in while others run. Sets max_tokens where the request does
// not.
absl::Status FitBeams(const SchedulerOptions& options, GenerateRequest* request) {
  if (!request->beams.search()) return absl::OkStatus();
  const int32_t width = request->beams.width;
  const int32_t seats = std::min(options.max_num_seqs, options.max_num_batched_tokens);
  if (width > seats) {
    return absl::InvalidArgumentError(absl::StrCat(
        "a beam search of ", width, " beams, the server ", "runs ", seats, " sequences at once"));
  }
  const int64_t room = std::min<int64_t>(
      options.max_model_len, int64_t{(options.num_blocks - 1) / width} * options.block_size);
  const auto prompt = static_cast<int64_t>(request->prompt_ids.size());
  // A limit at the end of the context is none that somebody chose: what fits is the limit then.
  const int64_t rest = options.max_model_len - prompt;
  if (request->stopping.max_tokens.value_or(rest) >= rest && room > prompt) {
    request->stopping.max_tokens = static_cast<int32_t>(room - prompt);
  }
  const int64_t wanted = request->stopping.max_tokens.value_or(1);
  const auto& structure = request->structure.structure;
  if (prompt + wanted > room || (structure != nullptr && structure->shortest_tokens() > wanted)) {
    return absl::InvalidArgumentError(absl::StrCat("the KV cache has room for ", width,
                                                   " beams of ", room, " tokens, the prompt ",
                                                   "has ", prompt, " and max_tokens is ", wanted));
  }
  return absl::OkStatus();
}

std::unique_ptr<RequestState> MakeRequestState(RequestId id, GenerateRequest request,
                                               std::shared_ptr<ResponseSink> sink,
                                               const RequestDefaults& defaults) {
  const bool has_arrival = request.arrival != absl::InfinitePast();
  request.arrival = has_arrival ? std::min(defaults.now, request.arrival) : defaults.now;
  ReasoningParams& reasoning = request.reasoning;
  if (reasoning.start_token_id < 0) reasoning.start_token_id = defaults.think_start_id;
  if (reasoning.end_token_id < 0) reasoning.end_token_id = defaults.think_end_id;
  const uint64_t seed = request.sampling.seed.value_or(defaults.seed);
  const std::vector<int32_t> stop_ids = StopIds(request, defaults.eos_token_ids);

  auto state = std::make_unique<RequestState>();
  state->id = id;
  state->sink = std::move(sink);
  state->request = std::make_shared<const GenerateRequest>(std::move(request));
  state->num_unfinished = state->request->n;
  state->timing.arrival = state->request->arrival;
  const std::shared_ptr<const TokenMask> mask =
      MaskOf(state->request->sampling, defaults.vocab_size);
  std::shared_ptr<BeamGroup> beams;
  if (state->request->beams.search()) {
    const auto limit = defaults.max_model_len - static_cast<int32_t>(state->prompt_tokens());
    beams = std::make_shared<BeamGroup>(
        state->request->beams,
        std::min(limit, state->request->stopping.max_tokens.value_or(limit)));
  }
  for (int32_t i = 0; i < state->request->n; ++i) {
    auto output = std::make_unique<OutputProcessor>(defaults.tokenizer, state->request, i);
    if (i > 0 && beams != nullptr) {  // the first sequence becomes all beams
      state->choices.push_back({.sequence = nullptr, .output = std::move(output)});
      continue;
    }
    SequenceInit init{
        .id = SequenceOf(id, i),
        .request = state->request,
        .seed = seed + static_cast<uint64_t>(i),
        .stop_ids = stop_ids,
        .mask = mask,
        .beams = beams,
        .wants_prompt_logprobs = i == 0 && state->request->sampling.prompt_logprobs.has_value(),
        .queued_at = defaults.now};
    state->choices.push_back(
        {.sequence = std::make_unique<Sequence>(std::move(init), defaults.max_model_len),
         .output = std::move(output)});
  }
  return state;
}

}  // namespace tessera
