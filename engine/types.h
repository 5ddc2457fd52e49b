// What goes into the engine and what comes out: plain values, no proto, no tensors.
#ifndef TESSERA_ENGINE_TYPES_H_
#define TESSERA_ENGINE_TYPES_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"

namespace tessera {

class Structure;

// Given by Engine::Submit; unique for the life of the process.
enum class RequestId : uint64_t {};
// And so many sequences belong to it at most.
inline constexpr int32_t kMaxChoices = 256;

// Most entries of a request's lists that travel with the plan of every step, whose size is bounded
// (engine/executor/plan_limits.h): Submit refuses more.
inline constexpr int32_t kMaxLogitBias = 1024;
inline constexpr int32_t kMaxBadWords = 1024;
inline constexpr int32_t kMaxStopIds = 512;
inline constexpr int32_t kMaxEosIds = 512;  // of the model: Engine::Create refuses more
// Tokens whose logits one draw changes one by one.
inline constexpr int32_t kMaxRowAdjustments =
    kMaxLogitBias + kMaxBadWords + kMaxStopIds + kMaxEosIds;

// Meanings and defaults are vLLM's SamplingParams. Values are already validated by the server
// (finite, in range, ids < vocab_size).
struct SamplingParams {
  float temperature = 1.0F;         // 0: greedy
  int32_t top_k = 0;                // 0: all
  float top_p = 1.0F;               // (0, 1]
  float min_p = 0.0F;               // [0, 1]
  float repetition_penalty = 1.0F;  // > 0, over prompt and output
  float presence_penalty = 0.0F;    // over output
  float frequency_penalty = 0.0F;   // over output
  // Unset: the engine draws one. Choice i of n uses seed + i.
  std::optional<uint64_t> seed;
  std::vector<std::pair<int32_t, float>> logit_bias;  // added to the logit
  std::vector<std::vector<int32_t>> bad_words;        // token sequences that never complete
  // When non-empty only these ids can be drawn.
  std::vector<int32_t> allowed_token_ids;
  std::optional<int32_t> logprobs;         // alternatives per output token, 0: the token's only
  std::optional<int32_t> prompt_logprobs;  // the same for prompt tokens
};

struct StoppingParams {
  // Output tokens; unset: up to the context limit.
  std::optional<int32_t> max_tokens;
  int32_t min_tokens = 0;  // eos, stop ids and stop strings are ignored before so many (see below)
  std::vector<int32_t> stop_token_ids;
  std::vector<std::string> stop;  // matched on text, never shown unless include_stop
  bool include_stop = false;
  bool ignore_eos = false;
  // Where reasoning is split off, min_tokens and stop strings are about the answer: reasoning
  // counts for nothing and may hold any text. Set: about all of the output.
  bool stop_in_reasoning = false;
};

// How the output is split and how long the model may think.
struct ReasoningParams {
  bool parse = false;  // split <think>…</think> into TokenDelta::reasoning
  // <think> and </think>; -1: the engine asks the tokenizer, and does not count reasoning when it
  // has no such tokens.
  int32_t start_token_id = -1;
  int32_t end_token_id = -1;
  // The prompt ends with a closed, empty think block: everything is content.
  bool starts_closed = false;
  bool cut_before_start = false;  // for want of budget: ChoiceFinish::thinking_budget_enforced
  // Tokens after <think> before the close sequence is forced; unset: no budget.
  std::optional<int32_t> max_thinking_tokens;
  std::vector<int32_t> close_token_ids;  // forced one per step when the budget is spent
};

// What the output must look like (engine/grammar/structure.h).
struct StructureParams {
  std::shared_ptr<const Structure> structure;  // null: anything
  // Free text, in which calls that begin with `opening_token_id` follow the structure, one each.
  bool optional_calls = false;
  int32_t opening_token_id = -1;
  bool single_call = false;  // of optional_calls: the first one ends the output
};

// Beams of one search.
inline constexpr int32_t kMaxBeamWidth = 16;

// When a search that has enough texts ends: kNo: when the best beam is not better than the worst of
// them, as long as both are now; kYes: at once; kNever: when it could not be better at any length.
enum class BeamEarlyStopping : uint8_t { kNo, kYes, kNever };

// Search for the most likely texts instead of drawing one: the n best are the choices, all told at
// the end. engine/scheduler/beam_search.h has the definition.
struct BeamParams {
  int32_t width = 0;  // 0: no search; 2 … kMaxBeamWidth, at least n
  double length_penalty = 1.0;
  BeamEarlyStopping early_stopping = BeamEarlyStopping::kNo;
  // A token that the structure does not allow costs this much once, and frees all that follows from
  // the structure. Unset: it is banned.
  std::optional<float> grammar_penalty;

  bool search() const { return width > 0; }
};

enum class ToolCallFormat { kNone, kHermes, kCoderXml };

struct OutputParams {
  bool skip_special_tokens = true;
  ToolCallFormat tool_call_format = ToolCallFormat::kNone;
  std::string tools_json;   // the request's tools, for kCoderXml's conversion of arguments
  bool named_call = false;  // a call that the client named ends with kStop, not kToolCalls
  bool confidence = false;  // set ChoiceFinish::confidence
};

// Who a request is for, and what they may have while others want it, too. The last request of a
// tenant says so for all of them.
struct TenantClaim {
  std::string name;     // empty: everybody who names nobody, together
  double weight = 1;    // above 0
  double kv_share = 0;  // of the KV blocks, (0, 1]; 0: by weight among those who are there
};

// What a tenant has waiting.
struct TenantBacklog {
  std::string tenant;
  int32_t requests = 0;
  int64_t tokens = 0;  // of their prompts
};

struct GenerateRequest {
  std::string external_id;          // the client's or a generated id, for logs only
  std::vector<int32_t> prompt_ids;  // 1 … context limit - 1 ids
  int32_t n = 1;                    // choices that share the prompt
  SamplingParams sampling;
  StoppingParams stopping;
  ReasoningParams reasoning;
  StructureParams structure;
  BeamParams beams;  // with a search nothing is drawn: temperature and the like are not looked at
  OutputParams output;
  int32_t priority = 0;                          // lower runs first
  absl::Time arrival = absl::InfinitePast();     // when the front end received it; TTFT starts here
  absl::Time deadline = absl::InfiniteFuture();  // both by MonotonicNow()
  TenantClaim tenant;
  std::string cache_salt;  // tenants with different salts never share prefix blocks
  bool use_prefix_cache = true;
};

struct TokenAlternative {
  int32_t token = 0;
  float logprob = 0.0F;
};

struct TokenLogprobs {
  int32_t token = 0;
  float logprob = 0.0F;
  int32_t rank = 0;                   // 1 = most likely
  std::vector<TokenAlternative> top;  // descending
};

// New output of one tool call; fragments are joined by index.
struct ToolCallDelta {
  int32_t index = 0;
  std::string id;    // with the first delta of a call only
  std::string name;  // with the first delta of a call only
  std::string arguments_fragment;
  bool operator==(const ToolCallDelta&) const = default;
};

// How sure the model was of an answer (engine/output/confidence.h).
struct Confidence {
  float mean = 0.0F;
  float lowest = 0.0F;
  int32_t num_tokens = 0;
};

enum class FinishReason : uint8_t { kStop, kLength, kToolCalls, kCancelled };

struct ChoiceFinish {
  FinishReason reason = FinishReason::kStop;
  std::optional<int32_t> stop_token_id;    // the eos or stop id that ended it
  std::optional<std::string> stop_string;  // the stop string that ended it
  bool thinking_budget_enforced = false;
  std::optional<Confidence> confidence;  // when asked for, unless the answer is empty
  std::optional<double> beam_score;      // of a beam search
};

// Token counts so far (cumulative, so that a client notices a lost chunk).
struct Usage {
  int32_t prompt_tokens = 0;
  int32_t cached_tokens = 0;  // prompt tokens served from the prefix cache
  int32_t completion_tokens = 0;
  int32_t reasoning_tokens = 0;
};

// New output of one choice. Text may be empty while a character or a stop string is incomplete.
struct TokenDelta {
  int32_t choice = 0;
  std::vector<int32_t> token_ids;
  std::string text;
  std::string reasoning;
  std::vector<ToolCallDelta> tool_calls;
  std::vector<TokenLogprobs> logprobs;         // one per token id when asked for
  std::vector<TokenLogprobs> prompt_logprobs;  // once, with the first delta; [prompt length - 1]
  Usage usage;                                 // of this choice
  std::optional<ChoiceFinish> finish;          // set on the last delta of the choice
};

// Times of a finished request, for metrics. All relative to monotonic engine time.
struct RequestTiming {
  absl::Time arrival;
  absl::Time first_scheduled;
  absl::Time first_token;
  absl::Time last_token;
  int32_t num_preemptions = 0;
};

struct FinishInfo {
  Usage usage;  // of all choices together; the prompt counts once
  RequestTiming timing;
};

// Called on the engine thread, never blocks. The engine keeps the sink until OnDone has returned.
class ResponseSink {
 public:
  virtual ~ResponseSink() = default;
  virtual void OnTokens(TokenDelta delta) = 0;
  // Exactly once, last. OK also when stopped by length; CANCELLED, DEADLINE_EXCEEDED, UNAVAILABLE
  // (engine dead or draining) and INTERNAL otherwise.
  virtual void OnDone(const absl::Status& status, const FinishInfo& info) = 0;
};

}  // namespace tessera

#endif  // TESSERA_ENGINE_TYPES_H_
