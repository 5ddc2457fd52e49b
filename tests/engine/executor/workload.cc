#include "tests/engine/executor/workload.h"

#include <algorithm>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "engine/executor/local_executor.h"
#include "engine/text/tokenizer.h"
#include "kernels/core/status_macros.h"

namespace tessera {
namespace {

class ReplySink final : public ResponseSink {
 public:
  explicit ReplySink(int32_t choices)
      : reply_{.tokens = std::vector<std::vector<int32_t>>(choices),
               .logprobs = std::vector<std::vector<float>>(choices)} {}

  void OnTokens(TokenDelta delta) override {
    absl::MutexLock lock(&mutex_);
    for (int32_t token : delta.token_ids) reply_.tokens[delta.choice].push_back(token);
    for (const TokenLogprobs& token : delta.logprobs) {
      reply_.logprobs[delta.choice].push_back(token.logprob);
    }
  }
  void OnDone(const absl::Status& status, const FinishInfo&) override {
    absl::MutexLock lock(&mutex_);
    status_ = status;
    done_ = true;
  }
  absl::StatusOr<Reply> Wait() {
    absl::MutexLock lock(&mutex_);
    if (!mutex_.AwaitWithTimeout(absl::Condition(&done_), absl::Minutes(2))) {
      return absl::DeadlineExceededError("no end after two minutes");
    }
    if (!status_.ok()) return status_;
    return reply_;
  }

 private:
  absl::Mutex mutex_;
  Reply reply_ ABSL_GUARDED_BY(mutex_);
  absl::Status status_ ABSL_GUARDED_BY(mutex_);
  bool done_ ABSL_GUARDED_BY(mutex_) = false;
};

// Two of three prompts begin alike; every second request is seeded.
GenerateRequest MakeRequest(int32_t i, int32_t vocab_size) {
  constexpr int32_t kPrefix = 25;
  const auto token = [vocab_size](int32_t salt, int32_t at) {
    return 3 + (salt * 7919 + at * 104729 + at * at * 31) % (vocab_size - 3);
  };
  GenerateRequest request;
  const int32_t length = kPrefix + 1 + (i * 7) % 19;
  for (int32_t t = 0; t < length; ++t) {
    const bool shared = i % 3 != 2 && t < kPrefix;
    request.prompt_ids.push_back(token(shared ? 0 : i + 1, t));
  }
  request.sampling.temperature = i % 2 == 0 ? 0.0F : 0.9F;
  request.sampling.top_k = i % 4 == 1 ? 30 : 0;
  request.sampling.top_p = i % 4 == 3 ? 0.9F : 1.0F;
  request.sampling.repetition_penalty = i % 5 == 0 ? 1.2F : 1.0F;
  request.sampling.seed = 1000 + i;
  request.sampling.logprobs = 0;
  request.stopping.max_tokens = 16 + (i * 5) % 17;
  request.stopping.ignore_eos = true;
  request.n = i == 7 ? 2 : 1;
  return request;
}

absl::StatusOr<std::unique_ptr<Engine>> StartEngine(ModelOptions model, const Load& load,
                                                    const ModelConfig& config,
                                                    const MakeExecutor& make) {
  EngineOptions options;
  options.model = std::move(model);
  options.model.max_model_len = kWorkloadMaxLen;
  options.scheduler.block_size = kWorkloadBlockSize;
  options.scheduler.max_num_seqs = load.max_num_seqs;
  options.scheduler.max_num_batched_tokens = 48;
  options.scheduler.max_prefill_chunk = 16;
  options.scheduler.enable_prefix_cache = load.prefix_cache;
  ASSIGN_OR_RETURN(std::unique_ptr<Executor> executor,
                   make(options.model,
                        {.block_size = kWorkloadBlockSize,
                         .max_num_batched_tokens = options.scheduler.max_num_batched_tokens,
                         .max_model_len = kWorkloadMaxLen},
                        config));
  options.kv_cache_bytes =
      load.num_blocks * executor->memory().kv_block_bytes * options.model.layout.tensor_parallel;
  ASSIGN_OR_RETURN(const auto tokenizer, Tokenizer::WithoutText());
  return Engine::Create(options, config, tokenizer, std::move(executor), {});
}

}  // namespace

std::vector<std::vector<std::vector<int32_t>>> Outcome::tokens() const {
  std::vector<std::vector<std::vector<int32_t>>> all;
  for (const Reply& reply : replies) all.push_back(reply.tokens);
  return all;
}

absl::StatusOr<Outcome> RunWorkload(ModelOptions model, const Load& load,
                                    const MakeExecutor& make) {
  ASSIGN_OR_RETURN(const ModelConfig config, LoadModelConfig(model.model_dir));
  ASSIGN_OR_RETURN(const std::unique_ptr<Engine> engine,
                   StartEngine(std::move(model), load, config, make));
  Outcome outcome;
  std::vector<std::shared_ptr<ReplySink>> sinks;
  for (int32_t i = 0; i < load.requests; ++i) {
    GenerateRequest request = MakeRequest(i, config.vocab_size);
    request.stopping.max_tokens = std::min(*request.stopping.max_tokens, load.tokens);
    sinks.push_back(std::make_shared<ReplySink>(request.n));
    RETURN_IF_ERROR(engine->Submit(request, sinks.back()).status());
    if ((i + 1) % load.at_a_time != 0 && i + 1 != load.requests) continue;
    for (const std::shared_ptr<ReplySink>& sink : sinks) {
      ASSIGN_OR_RETURN(Reply reply, sink->Wait());
      outcome.replies.push_back(std::move(reply));
    }
    sinks.clear();
  }
  outcome.stats = engine->stats();
  return outcome;
}

absl::StatusOr<Outcome> RunWorkload(ModelOptions model, const Load& load) {
  return RunWorkload(
      std::move(model), load,
      [](const ModelOptions& options, const ExecutorLimits& limits, const ModelConfig& config) {
        return CreateLocalExecutor(options, limits, config, nullptr);
      });
}

}  // namespace tessera
