// An executor that remembers what its steps reported.
#ifndef TESSERA_TESTS_ENGINE_EXECUTOR_OBSERVED_EXECUTOR_H_
#define TESSERA_TESTS_ENGINE_EXECUTOR_OBSERVED_EXECUTOR_H_

#include <functional>
#include <memory>
#include <utility>

#include "engine/executor/executor.h"

namespace tessera {

class ObservedExecutor final : public Executor {
 public:
  using Observer = std::function<void(const StepResult&)>;
  ObservedExecutor(std::unique_ptr<Executor> executor, Observer observer)
      : executor_(std::move(executor)), observer_(std::move(observer)) {}

  MemoryReport memory() const override { return executor_->memory(); }
  GroupFacts facts() const override { return executor_->facts(); }
  int32_t num_groups() const override { return executor_->num_groups(); }
  int32_t max_steps_under_way() const override { return executor_->max_steps_under_way(); }
  absl::Status AllocateKv(int32_t num_blocks) override { return executor_->AllocateKv(num_blocks); }
  void Submit(StepPlan plan) override { executor_->Submit(std::move(plan)); }
  absl::StatusOr<StepResult> Wait() override {
    absl::StatusOr<StepResult> result = executor_->Wait();
    if (result.ok()) observer_(*result);
    return result;
  }
  void Abort(absl::Status reason) override { executor_->Abort(std::move(reason)); }
  absl::Status Shutdown(absl::Time deadline) override { return executor_->Shutdown(deadline); }

 private:
  const std::unique_ptr<Executor> executor_;
  const Observer observer_;
};

}  // namespace tessera

#endif  // TESSERA_TESTS_ENGINE_EXECUTOR_OBSERVED_EXECUTOR_H_
