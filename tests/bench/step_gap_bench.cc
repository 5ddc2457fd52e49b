// How long a device waits for the host between two steps of a full batch, with one and with two
// steps under way. The device is the queued one: its steps take a fixed time whatever the host
// does.
//
//   step_gap_bench MODEL [BATCH] [DELAY_MS] [TOKENIZER]
//
// The device computes, too: a model that is quick to compute shows the host best. TOKENIZER: a
// folder with a tokenizer.json for models without one.
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/blocking_counter.h"
#include "engine/engine.h"
#include "engine/executor/local_executor.h"
#include "engine/model/model_config.h"
#include "engine/text/tokenizer.h"
#include "kernels/core/status_macros.h"

namespace tessera {
namespace {

constexpr int32_t kTokens = 200;  // per sequence

struct Arguments {
  std::string model_dir;
  std::string tokenizer_dir;
  int32_t batch = 32;
  absl::Duration delay = absl::Milliseconds(5);
  int32_t steps_under_way = 1;
};

class CountingSink final : public ResponseSink {
 public:
  explicit CountingSink(absl::BlockingCounter* done) : done_(done) {}
  void OnTokens(TokenDelta /*delta*/) override {}
  void OnDone(const absl::Status& /*status*/, const FinishInfo& /*info*/) override {
    done_->DecrementCount();
  }

 private:
  absl::BlockingCounter* done_;
};

// Of the steps that decode the full batch.
struct Gaps {
  int64_t steps = 0;
  absl::Duration waited;
  absl::Duration whole;
};

absl::StatusOr<Gaps> Measure(const Arguments& arguments) {
  ASSIGN_OR_RETURN(const ModelConfig config, LoadModelConfig(arguments.model_dir));
  EngineOptions options;
  options.model = {.model_dir = arguments.model_dir,
                   .backend = "queued",
                   .dtype = DType::kBF16,
                   .steps_under_way = arguments.steps_under_way,
                   .queued_step_delay = arguments.delay};
  options.scheduler.max_num_seqs = arguments.batch;
  options.kv_cache_bytes = int64_t{256} << 20;
  ASSIGN_OR_RETURN(
      std::unique_ptr<Executor> executor,
      CreateLocalExecutor(options.model,
                          {.block_size = options.scheduler.block_size,
                           .max_num_batched_tokens = options.scheduler.max_num_batched_tokens,
                           .max_num_seqs = arguments.batch},
                          config, {}));
  Gaps gaps;
  EngineHooks hooks;
  hooks.on_step = [&](const StepEvent& step) {
    if (step.decode_tokens != arguments.batch || step.prefill_tokens > 0) return;
    ++gaps.steps;
    gaps.waited += absl::Seconds(step.ranks.front().host_gap_seconds);
    gaps.whole += step.duration;
  };
  ASSIGN_OR_RETURN(std::shared_ptr<const Tokenizer> tokenizer,
                   Tokenizer::Load(arguments.tokenizer_dir));
  ASSIGN_OR_RETURN(
      std::unique_ptr<Engine> engine,
      Engine::Create(options, config, std::move(tokenizer), std::move(executor), std::move(hooks)));
  absl::BlockingCounter done(arguments.batch);
  for (int32_t i = 0; i < arguments.batch; ++i) {
    GenerateRequest request;
    request.prompt_ids.assign(4, 100 + i);
    request.stopping.max_tokens = kTokens;
    request.stopping.ignore_eos = true;
    RETURN_IF_ERROR(
        engine->Submit(std::move(request), std::make_shared<CountingSink>(&done)).status());
  }
  done.Wait();
  engine.reset();  // no hook is called any more
  return gaps;
}

int Main(Arguments arguments) {
  std::printf("device step %s, batch %d: limit 0 %% of the time waiting for the host, aim 3 %%\n",
              absl::FormatDuration(arguments.delay).c_str(), arguments.batch);
  for (int32_t depth : {1, 2}) {
    arguments.steps_under_way = depth;
    const absl::StatusOr<Gaps> gaps = Measure(arguments);
    if (!gaps.ok()) {
      std::fprintf(stderr, "%s\n", gaps.status().ToString().c_str());
      return 1;
    }
    const double steps = static_cast<double>(gaps->steps);
    std::printf("%d under way: %lld steps, %.3f ms each, the device waits %.3f ms = %.2f %%\n",
                depth, static_cast<long long>(gaps->steps),
                absl::ToDoubleMilliseconds(gaps->whole) / steps,
                absl::ToDoubleMilliseconds(gaps->waited) / steps,
                100 * absl::FDivDuration(gaps->waited, gaps->whole));
  }
  return 0;
}

}  // namespace
}  // namespace tessera

int main(int argc, char** argv) {
  if (argc < 2) {
    std::fprintf(stderr, "usage: step_gap_bench MODEL [BATCH] [DELAY_MS] [TOKENIZER]\n");
    return 2;
  }
  tessera::Arguments arguments{.model_dir = argv[1], .tokenizer_dir = argv[argc > 4 ? 4 : 1]};
  if (argc > 2) arguments.batch = std::atoi(argv[2]);
  if (argc > 3) arguments.delay = absl::Milliseconds(std::atof(argv[3]));
  return tessera::Main(arguments);
}
