// An engine without a model: one thread that echoes the prompt, one token per step and choice.
#ifndef TESSERA_TESTS_SERVER_FAKE_ENGINE_H_
#define TESSERA_TESTS_SERVER_FAKE_ENGINE_H_

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "engine/engine.h"

namespace tessera {

struct FakeEngineOptions {
  absl::Duration step = absl::Milliseconds(1);
  int32_t max_running = 1 << 20;  // more than that: RESOURCE_EXHAUSTED
  size_t bytes_per_token = 1;     // text of one token
};

// The output is the prompt, repeated until max_tokens; "x" stands for ids above 255.
class FakeEngine : public Engine {
 public:
  explicit FakeEngine(FakeEngineOptions options = {})
      : options_(options), thread_([this] { Run(); }) {}
  ~FakeEngine() override {
    {
      absl::MutexLock lock(&mutex_);
      stopping_ = true;
    }
    thread_.join();
  }

  absl::StatusOr<RequestId> Submit(GenerateRequest request,
                                   std::shared_ptr<ResponseSink> sink) override {
    absl::MutexLock lock(&mutex_);
    if (draining_) return absl::UnavailableError("draining");
    if (static_cast<int32_t>(running_.size()) >= options_.max_running) {
      return absl::ResourceExhaustedError("the queue is full");
    }
    const uint64_t id = next_id_++;
    running_[id] = {std::move(request), std::move(sink), 0, absl::OkStatus()};
    return RequestId{id};
  }

  void Cancel(RequestId id, absl::Status status) override {
    absl::MutexLock lock(&mutex_);
    ++num_cancels_;
    const auto found = running_.find(static_cast<uint64_t>(id));
    if (found != running_.end()) found->second.cancelled = std::move(status);
  }

  EngineStats stats() const override {
    absl::MutexLock lock(&mutex_);
    EngineStats stats = stats_;
    stats.num_running = static_cast<int32_t>(running_.size());
    stats.kv_blocks_total = 100;
    stats.kv_blocks_free = 100 - stats.num_running;
    stats.kv_blocks_used = stats.num_running;
    stats.alive = alive_;
    return stats;
  }

  int32_t NumWaitingBefore(int32_t /*priority*/, const TenantClaim& /*tenant*/) const override {
    absl::MutexLock lock(&mutex_);
    return stats_.num_waiting;
  }
  std::vector<TenantBacklog> Backlogs() const override {
    return {{.tenant = "acme", .requests = 3, .tokens = 50}};
  }

  int32_t max_model_len() const override { return 4096; }

  absl::Status Drain(absl::Time deadline) override {
    absl::MutexLock lock(&mutex_);
    draining_ = true;
    const auto idle = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return running_.empty(); };
    if (mutex_.AwaitWithDeadline(absl::Condition(&idle), deadline)) return absl::OkStatus();
    for (auto& [id, entry] : running_) entry.cancelled = absl::UnavailableError("drained");
    mutex_.Await(absl::Condition(&idle));
    return absl::OkStatus();
  }

  void set_alive(bool alive) {
    absl::MutexLock lock(&mutex_);
    alive_ = alive;
  }
  // Since the start.
  int64_t num_submitted() const {
    absl::MutexLock lock(&mutex_);
    return static_cast<int64_t>(next_id_) - 1;
  }
  int32_t num_running() const {
    absl::MutexLock lock(&mutex_);
    return static_cast<int32_t>(running_.size());
  }
  // Waits until nothing runs; false when that takes longer than ten seconds.
  bool WaitIdle() const {
    absl::MutexLock lock(&mutex_);
    const auto idle = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return running_.empty(); };
    return mutex_.AwaitWithTimeout(absl::Condition(&idle), absl::Seconds(10));
  }

 private:
  struct Entry {
    GenerateRequest request;
    std::shared_ptr<ResponseSink> sink;
    int32_t num_tokens = 0;
    absl::Status cancelled;
  };
  struct Event {
    std::shared_ptr<ResponseSink> sink;
    std::vector<TokenDelta> deltas;
    bool done = false;
    absl::Status status;
    FinishInfo info;
  };

  void Run() {
    while (true) {
      std::vector<Event> events;
      {
        absl::MutexLock lock(&mutex_);
        if (stopping_) return;
        events = Step();
      }
      for (Event& event : events) {
        for (TokenDelta& delta : event.deltas) event.sink->OnTokens(std::move(delta));
        if (event.done) event.sink->OnDone(event.status, event.info);
      }
      absl::SleepFor(options_.step);
    }
  }

  std::vector<Event> Step() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    std::vector<Event> events;
    for (auto it = running_.begin(); it != running_.end();) {
      Event event = Advance(&it->second);
      it = event.done ? running_.erase(it) : std::next(it);
      events.push_back(std::move(event));
    }
    return events;
  }

  Event Advance(Entry* entry) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    const GenerateRequest& request = entry->request;
    Event event{.sink = entry->sink};
    const absl::Time now = absl::Now();
    if (!entry->cancelled.ok() || now >= request.deadline) {
      event.done = true;
      event.status = entry->cancelled.ok() ? absl::DeadlineExceededError("late") : entry->cancelled;
      return event;
    }
    ++entry->num_tokens;
    const int32_t last = *request.stopping.max_tokens;
    for (int32_t choice = 0; choice < request.n; ++choice) {
      event.deltas.push_back(Delta(*entry, choice, entry->num_tokens == last));
    }
    if (entry->num_tokens == last) {
      event.done = true;
      event.info.usage = event.deltas.back().usage;
      event.info.usage.completion_tokens *= request.n;
      event.info.timing = {request.arrival, request.arrival, request.arrival, now, 0};
      stats_.prompt_tokens += event.info.usage.prompt_tokens;
      stats_.generation_tokens += event.info.usage.completion_tokens;
    }
    return event;
  }

  TokenDelta Delta(const Entry& entry, int32_t choice, bool is_last) const {
    const std::vector<int32_t>& prompt = entry.request.prompt_ids;
    const size_t at = static_cast<size_t>(entry.num_tokens - 1) % prompt.size();
    TokenDelta delta;
    delta.choice = choice;
    delta.token_ids = {prompt[at]};
    const char letter = prompt[at] < 128 ? static_cast<char>(prompt[at]) : 'x';
    delta.text = std::string(options_.bytes_per_token, letter);
    delta.usage = {static_cast<int32_t>(prompt.size()), 0, entry.num_tokens, 0};
    if (is_last) delta.finish = ChoiceFinish{.reason = FinishReason::kLength};
    return delta;
  }

  const FakeEngineOptions options_;
  mutable absl::Mutex mutex_;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  bool draining_ ABSL_GUARDED_BY(mutex_) = false;
  bool alive_ ABSL_GUARDED_BY(mutex_) = true;
  int64_t num_cancels_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t next_id_ ABSL_GUARDED_BY(mutex_) = 1;
  EngineStats stats_ ABSL_GUARDED_BY(mutex_);
  std::map<uint64_t, Entry> running_ ABSL_GUARDED_BY(mutex_);
  std::thread thread_;
};

}  // namespace tessera

#endif  // TESSERA_TESTS_SERVER_FAKE_ENGINE_H_
