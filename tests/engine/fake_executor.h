// An executor over the fake model, with a gate and faults; and sinks that remember.
#ifndef TESSERA_TESTS_ENGINE_FAKE_EXECUTOR_H_
#define TESSERA_TESTS_ENGINE_FAKE_EXECUTOR_H_

#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/time/clock.h"
#include "engine/engine.h"
#include "engine/model/model_config.h"
#include "engine/text/tokenizer.h"
#include "kernels/core/mutex.h"
#include "kernels/core/status_macros.h"
#include "tests/engine/scheduler/fake_model.h"

namespace tessera {

// Waits for `condition` under the lock; fails loudly after a minute. Callers hold the mutex, which
// the analysis cannot see through a template's lambda.
template <typename Condition>
void AwaitOrDie(Mutex* mutex, CondVar* changed,
                const Condition& condition) ABSL_NO_THREAD_SAFETY_ANALYSIS {
  const absl::Time end = absl::Now() + absl::Minutes(1);
  while (!condition()) {
    TESSERA_CHECK(absl::Now() < end);
    changed->WaitWithTimeout(mutex, absl::Seconds(1));
  }
}

// Shared between the test and the executor that the engine owns.
class FakeControl {
 public:
  // Steps wait until Open().
  void Close() { SetOpen(false); }
  void Open() { SetOpen(true); }
  // Lets exactly one step pass a closed gate.
  void PassOne();
  void WaitForSteps(int64_t count);  // submitted since the start
  void FailNext(absl::Status status);
  void BreakNextShape();

 private:
  friend class FakeExecutor;
  void SetOpen(bool open);
  // The fate of the next step, once the gate lets it through.
  absl::Status Pass(bool* break_shape);
  void CountSubmission();

  Mutex mutex_;
  CondVar changed_;
  bool open_ ABSL_GUARDED_BY(mutex_) = true;
  int64_t passes_ ABSL_GUARDED_BY(mutex_) = 0;
  int64_t submitted_ ABSL_GUARDED_BY(mutex_) = 0;
  bool break_shape_ ABSL_GUARDED_BY(mutex_) = false;
  absl::Status failure_ ABSL_GUARDED_BY(mutex_);
};

struct FakeExecutorOptions {
  int32_t num_groups = 1;
  int32_t max_steps_under_way = 1;
  int32_t block_size = 4;
  int32_t vocab_size = 0;
  int64_t block_bytes = 1024;
};

class FakeExecutor final : public Executor {
 public:
  FakeExecutor(const FakeExecutorOptions& options, std::shared_ptr<FakeControl> control)
      : options_(options), control_(std::move(control)) {}

  MemoryReport memory() const override { return {.kv_block_bytes = options_.block_bytes}; }
  GroupFacts facts() const override { return {}; }
  int32_t num_groups() const override { return options_.num_groups; }
  int32_t max_steps_under_way() const override { return options_.max_steps_under_way; }
  absl::Status AllocateKv(int32_t num_blocks) override;
  void Submit(StepPlan plan) override;
  absl::StatusOr<StepResult> Wait() override;
  void Abort(absl::Status reason) override { control_->FailNext(std::move(reason)); }
  absl::Status Shutdown(absl::Time) override { return absl::OkStatus(); }

 private:
  const FakeExecutorOptions options_;
  const std::shared_ptr<FakeControl> control_;
  std::vector<FakeModel> models_;
  std::deque<StepPlan> plans_;
};

// Everything a request produced.
class RecordingSink : public ResponseSink {
 public:
  void OnTokens(TokenDelta delta) override;
  void OnDone(const absl::Status& status, const FinishInfo& info) override;

  // Blocks until OnDone; fails loudly after a minute.
  absl::Status Wait();
  bool done() const;
  int32_t num_done() const;
  size_t num_deltas() const;
  void WaitForDeltas(size_t count);
  std::vector<int32_t> tokens(int32_t choice = 0) const;
  std::string text(int32_t choice = 0) const;
  std::string reasoning() const;
  std::vector<TokenLogprobs> prompt_logprobs() const;
  std::vector<TokenLogprobs> logprobs() const;
  std::optional<ChoiceFinish> finish(int32_t choice = 0) const;
  Usage choice_usage(int32_t choice = 0) const;
  FinishInfo info() const;

 private:
  mutable Mutex mutex_;
  mutable CondVar changed_;
  std::vector<TokenDelta> deltas_ ABSL_GUARDED_BY(mutex_);
  int32_t num_done_ ABSL_GUARDED_BY(mutex_) = 0;
  bool tokens_after_done_ ABSL_GUARDED_BY(mutex_) = false;
  absl::Status status_ ABSL_GUARDED_BY(mutex_);
  FinishInfo info_ ABSL_GUARDED_BY(mutex_);
};

// The bundled model's tokenizer and configuration; loaded once.
std::shared_ptr<const Tokenizer> NanoTokenizer();
const ModelConfig& NanoConfig();

}  // namespace tessera

#endif  // TESSERA_TESTS_ENGINE_FAKE_EXECUTOR_H_
