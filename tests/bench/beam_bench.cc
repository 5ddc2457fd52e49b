// What a beam search of 4 beams costs beside a greedy answer of as many tokens: the aim is 4.4
// times as much, its four texts and a tenth for the search, the copies and the steps that wait for
// it.
//
//   beam_bench MODEL [TOKENS] [PROMPT]
//
// Times are of the process (its CPU), so that a busy machine disturbs less; both answers take
// turns.
#include <time.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/synchronization/notification.h"
#include "engine/engine.h"
#include "engine/executor/local_executor.h"
#include "engine/model/model_config.h"
#include "engine/text/tokenizer.h"
#include "kernels/core/status_macros.h"

namespace tessera {
namespace {

constexpr int32_t kWidth = 4;
constexpr int kRounds = 7;

struct Arguments {
  std::string model_dir;
  int32_t tokens = 128;
  int32_t prompt = 64;
};

class WaitingSink final : public ResponseSink {
 public:
  void OnTokens(TokenDelta /*delta*/) override {}
  void OnDone(const absl::Status& status, const FinishInfo& /*info*/) override {
    status_ = status;
    done_.Notify();
  }
  absl::Status Wait() {
    done_.WaitForNotification();
    return status_;
  }

 private:
  absl::Status status_;
  absl::Notification done_;
};

double ProcessSeconds() {
  timespec now{};
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

absl::StatusOr<double> SecondsOf(Engine* engine, const Arguments& arguments, int32_t width) {
  GenerateRequest request;
  for (int32_t i = 0; i < arguments.prompt; ++i) request.prompt_ids.push_back(100 + i * 7 % 400);
  request.stopping.max_tokens = arguments.tokens;
  request.stopping.ignore_eos = true;
  request.sampling.temperature = 0;
  request.use_prefix_cache = false;
  request.beams.width = width;
  const auto sink = std::make_shared<WaitingSink>();
  const double before = ProcessSeconds();
  RETURN_IF_ERROR(engine->Submit(std::move(request), sink).status());
  RETURN_IF_ERROR(sink->Wait());
  return ProcessSeconds() - before;
}

absl::Status Measure(const Arguments& arguments) {
  ASSIGN_OR_RETURN(const ModelConfig config, LoadModelConfig(arguments.model_dir));
  EngineOptions options;
  options.model = {.model_dir = arguments.model_dir, .dtype = DType::kBF16, .num_threads = 1};
  options.model.backend = "cpu";
  options.kv_cache_bytes = int64_t{512} << 20;
  ASSIGN_OR_RETURN(
      std::unique_ptr<Executor> executor,
      CreateLocalExecutor(options.model,
                          {.block_size = options.scheduler.block_size,
                           .max_num_batched_tokens = options.scheduler.max_num_batched_tokens},
                          config, {}));
  ASSIGN_OR_RETURN(const auto tokenizer, Tokenizer::WithoutText());
  ASSIGN_OR_RETURN(const std::unique_ptr<Engine> engine,
                   Engine::Create(options, config, tokenizer, std::move(executor), {}));
  std::vector<double> greedy;
  std::vector<double> beams;
  for (int round = 0; round < kRounds; ++round) {
    ASSIGN_OR_RETURN(const double one, SecondsOf(engine.get(), arguments, 0));
    ASSIGN_OR_RETURN(const double four, SecondsOf(engine.get(), arguments, kWidth));
    greedy.push_back(one);
    beams.push_back(four);
  }
  std::sort(greedy.begin(), greedy.end());
  std::sort(beams.begin(), beams.end());
  const double one = greedy[kRounds / 2];
  const double four = beams[kRounds / 2];
  std::printf("%d tokens after %d: greedy %.1f ms, %d beams %.1f ms: ratio %.2f, aim 4.4\n",
              arguments.tokens, arguments.prompt, 1e3 * one, kWidth, 1e3 * four, four / one);
  return absl::OkStatus();
}

}  // namespace
}  // namespace tessera

int main(int argc, char** argv) {
  if (argc < 2) {
    std::fprintf(stderr, "usage: beam_bench MODEL [TOKENS] [PROMPT]\n");
    return 2;
  }
  tessera::Arguments arguments{.model_dir = argv[1]};
  if (argc > 2) arguments.tokens = std::atoi(argv[2]);
  if (argc > 3) arguments.prompt = std::atoi(argv[3]);
  const absl::Status status = tessera::Measure(arguments);
  if (status.ok()) return 0;
  std::fprintf(stderr, "%s\n", status.ToString().c_str());
  return 1;
}
