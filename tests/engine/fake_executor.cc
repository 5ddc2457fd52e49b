#include "tests/engine/fake_executor.h"

#include <utility>

namespace tessera {

void FakeControl::SetOpen(bool open) {
  MutexLock lock(&mutex_);
  open_ = open;
  changed_.SignalAll();
}

void FakeControl::PassOne() {
  MutexLock lock(&mutex_);
  ++passes_;
  changed_.SignalAll();
}

void FakeControl::WaitForSteps(int64_t count) {
  MutexLock lock(&mutex_);
  const auto reached = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return submitted_ >= count; };
  AwaitOrDie(&mutex_, &changed_, reached);
}

void FakeControl::FailNext(absl::Status status) {
  MutexLock lock(&mutex_);
  failure_ = std::move(status);
  changed_.SignalAll();
}

void FakeControl::BreakNextShape() {
  MutexLock lock(&mutex_);
  break_shape_ = true;
}

void FakeControl::CountSubmission() {
  MutexLock lock(&mutex_);
  ++submitted_;
  changed_.SignalAll();
}

absl::Status FakeControl::Pass(bool* break_shape) {
  MutexLock lock(&mutex_);
  const auto may_pass = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return open_ || passes_ > 0 || !failure_.ok();
  };
  while (!may_pass()) changed_.Wait(&mutex_);
  if (!open_ && passes_ > 0) --passes_;
  *break_shape = std::exchange(break_shape_, false);
  return failure_;
}

absl::Status FakeExecutor::AllocateKv(int32_t num_blocks) {
  for (int32_t i = 0; i < options_.num_groups; ++i) {
    models_.emplace_back(num_blocks, options_.block_size, options_.vocab_size);
  }
  return absl::OkStatus();
}

void FakeExecutor::Submit(StepPlan plan) {
  plans_.push_back(std::move(plan));
  control_->CountSubmission();
}

absl::StatusOr<StepResult> FakeExecutor::Wait() {
  const StepPlan plan = std::move(plans_.front());
  plans_.pop_front();
  bool break_shape = false;
  RETURN_IF_ERROR(control_->Pass(&break_shape));
  StepResult result{.step_id = plan.step_id};
  for (size_t g = 0; g < plan.groups.size(); ++g) {
    result.groups.push_back(models_[g].Run(plan.groups[g]));
    if (models_[g].error() != nullptr) return absl::InternalError(models_[g].error());
  }
  if (break_shape) result.groups[0].token.push_back(0);
  return result;
}

void RecordingSink::OnTokens(TokenDelta delta) {
  MutexLock lock(&mutex_);
  if (num_done_ > 0) tokens_after_done_ = true;
  deltas_.push_back(std::move(delta));
  changed_.SignalAll();
}

void RecordingSink::OnDone(const absl::Status& status, const FinishInfo& info) {
  MutexLock lock(&mutex_);
  ++num_done_;
  status_ = status;
  info_ = info;
  changed_.SignalAll();
}

absl::Status RecordingSink::Wait() {
  MutexLock lock(&mutex_);
  const auto is_done = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return num_done_ > 0; };
  AwaitOrDie(&mutex_, &changed_, is_done);
  TESSERA_CHECK(!tokens_after_done_);
  return status_;
}

void RecordingSink::WaitForDeltas(size_t count) {
  MutexLock lock(&mutex_);
  const auto reached = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return deltas_.size() >= count || num_done_ > 0;
  };
  AwaitOrDie(&mutex_, &changed_, reached);
}

bool RecordingSink::done() const { return num_done() > 0; }

int32_t RecordingSink::num_done() const {
  MutexLock lock(&mutex_);
  return num_done_;
}

size_t RecordingSink::num_deltas() const {
  MutexLock lock(&mutex_);
  return deltas_.size();
}

std::vector<int32_t> RecordingSink::tokens(int32_t choice) const {
  MutexLock lock(&mutex_);
  std::vector<int32_t> all;
  for (const TokenDelta& delta : deltas_) {
    if (delta.choice != choice) continue;
    all.insert(all.end(), delta.token_ids.begin(), delta.token_ids.end());
  }
  return all;
}

std::string RecordingSink::text(int32_t choice) const {
  MutexLock lock(&mutex_);
  std::string all;
  for (const TokenDelta& delta : deltas_) {
    if (delta.choice == choice) all += delta.text;
  }
  return all;
}

std::string RecordingSink::reasoning() const {
  MutexLock lock(&mutex_);
  std::string all;
  for (const TokenDelta& delta : deltas_) all += delta.reasoning;
  return all;
}

std::vector<TokenLogprobs> RecordingSink::prompt_logprobs() const {
  MutexLock lock(&mutex_);
  std::vector<TokenLogprobs> all;
  for (const TokenDelta& delta : deltas_) {
    all.insert(all.end(), delta.prompt_logprobs.begin(), delta.prompt_logprobs.end());
  }
  return all;
}

std::vector<TokenLogprobs> RecordingSink::logprobs() const {
  MutexLock lock(&mutex_);
  std::vector<TokenLogprobs> all;
  for (const TokenDelta& delta : deltas_) {
    all.insert(all.end(), delta.logprobs.begin(), delta.logprobs.end());
  }
  return all;
}

std::optional<ChoiceFinish> RecordingSink::finish(int32_t choice) const {
  MutexLock lock(&mutex_);
  for (const TokenDelta& delta : deltas_) {
    if (delta.choice == choice && delta.finish.has_value()) return delta.finish;
  }
  return std::nullopt;
}

Usage RecordingSink::choice_usage(int32_t choice) const {
  MutexLock lock(&mutex_);
  Usage usage;
  for (const TokenDelta& delta : deltas_) {
    if (delta.choice == choice) usage = delta.usage;
  }
  return usage;
}

FinishInfo RecordingSink::info() const {
  MutexLock lock(&mutex_);
  return info_;
}

std::shared_ptr<const Tokenizer> NanoTokenizer() {
  static const auto* tokenizer =
      new absl::StatusOr<std::shared_ptr<const Tokenizer>>(Tokenizer::Load(TESSERA_NANO_MODEL));
  TESSERA_CHECK(tokenizer->ok());
  return **tokenizer;
}

const ModelConfig& NanoConfig() {
  static const auto* config = new absl::StatusOr<ModelConfig>(LoadModelConfig(TESSERA_NANO_MODEL));
  TESSERA_CHECK(config->ok());
  return **config;
}

}  // namespace tessera
