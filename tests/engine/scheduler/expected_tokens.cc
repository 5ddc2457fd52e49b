#include "tests/engine/scheduler/expected_tokens.h"

#include <algorithm>
#include <map>

#include "tests/engine/scheduler/fake_model.h"

namespace tessera {
namespace {

bool Contains(const std::vector<int32_t>& list, int32_t value) {
  return std::find(list.begin(), list.end(), value) != list.end();
}

// The budget as a replay of the whole history: which token is forced after `tokens`.
struct ThinkingReplay {
  int32_t forced = -1;
  int32_t reasoning_tokens = 0;
};

ThinkingReplay ReplayThinking(const GenerateRequest& request, const std::vector<int32_t>& tokens) {
  const ReasoningParams& params = request.reasoning;
  ThinkingReplay replay;
  if (params.starts_closed || params.start_token_id < 0) return replay;
  const auto prompt = request.prompt_ids.size();
  bool open = false;
  int64_t length = 0;
  size_t closing = 0;  // tokens of the close sequence already forced
  for (size_t i = 0; i <= tokens.size(); ++i) {
    replay.forced = -1;
    const bool over = open && params.max_thinking_tokens.has_value() &&
                      length >= *params.max_thinking_tokens && !params.close_token_ids.empty();
    if (i >= prompt && (closing > 0 || over)) replay.forced = params.close_token_ids[closing];
    if (i == tokens.size()) break;
    const int32_t token = tokens[i];
    if (replay.forced >= 0) ++closing;
    if (token == params.start_token_id) {
      open = true;
      length = 0;
    } else if (token == params.end_token_id) {
      open = false;
    } else if (open) {
      ++length;
      if (i >= prompt) ++replay.reasoning_tokens;
    }
    if (closing > 0 && closing == params.close_token_ids.size()) {
      closing = 0;
      open = false;
    }
  }
  return replay;
}

std::vector<int32_t> BannedTokens(const GenerateRequest& request, const ExpectedOptions& options,
                                  const std::vector<int32_t>& output) {
  std::vector<int32_t> banned;
  const SamplingParams& sampling = request.sampling;
  if (sampling.allowed_token_ids.empty() && sampling.bad_words.empty() &&
      static_cast<int32_t>(output.size()) >= request.stopping.min_tokens) {
    return banned;
  }
  for (int32_t token = 0; token < options.vocab_size; ++token) {
    bool ban = !sampling.allowed_token_ids.empty() && !Contains(sampling.allowed_token_ids, token);
    ban = ban || (static_cast<int32_t>(output.size()) < request.stopping.min_tokens &&
                  Contains(options.stop_ids, token));
    std::vector<int32_t> next = output;
    next.push_back(token);
    for (const std::vector<int32_t>& word : sampling.bad_words) {
      ban = ban ||
            (next.size() >= word.size() && std::equal(word.rbegin(), word.rend(), next.rbegin()));
    }
    if (ban) banned.push_back(token);
  }
  return banned;
}

uint64_t Penalties(const GenerateRequest& request, const std::vector<int32_t>& output) {
  const SamplingParams& sampling = request.sampling;
  std::map<int32_t, int32_t> counts;
  if (sampling.repetition_penalty != 1.0F) {
    for (int32_t token : request.prompt_ids) counts[token];
  } else if (sampling.presence_penalty == 0.0F && sampling.frequency_penalty == 0.0F) {
    return 0;
  }
  for (int32_t token : output) ++counts[token];
  uint64_t hash = 0;
  for (const auto& [token, count] : counts) hash = MixPenalty(hash, token, count);
  return hash;
}

}  // namespace

ExpectedOutput ExpectedTokens(const GenerateRequest& request, const ExpectedOptions& options) {
  ExpectedOutput expected;
  std::vector<int32_t> all;
  uint64_t context = 0;
  for (int32_t token : request.prompt_ids) {
    if (!all.empty()) expected.prompt_logprobs.push_back(FakeLogprob(context, token));
    context = ExtendContext(context, token);
    all.push_back(token);
  }
  const int32_t limit = request.stopping.max_tokens.value_or(options.max_model_len);
  while (true) {
    int32_t token = ReplayThinking(request, all).forced;
    if (token < 0) {
      token = DrawToken({.context = context,
                         .seed = options.seed,
                         .position = static_cast<int32_t>(all.size()),
                         .penalties = Penalties(request, expected.tokens),
                         .banned = BannedTokens(request, options, expected.tokens)},
                        options.vocab_size);
    }
    expected.unusable = token < 0;
    if (expected.unusable) break;
    all.push_back(token);
    expected.tokens.push_back(token);
    context = ExtendContext(context, token);
    const auto produced = static_cast<int32_t>(expected.tokens.size());
    if (produced > request.stopping.min_tokens && Contains(options.stop_ids, token)) {
      expected.reason = FinishReason::kStop;
      break;
    }
    if (produced >= limit || static_cast<int32_t>(all.size()) >= options.max_model_len) break;
  }
  expected.reasoning_tokens = ReplayThinking(request, all).reasoning_tokens;
  return expected;
}

}  // namespace tessera
