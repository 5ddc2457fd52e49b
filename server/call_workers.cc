#include "server/call_workers.h"

#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <utility>

#include "absl/status/status.h"
#include "kernels/core/status_macros.h"

namespace tessera {
namespace {

// Steps of the model serve everyone, a large prompt one client.
constexpr int kBehindTheModel = 5;

void GiveWayToTheModel() {
  // For Linux a thread is a process of its own here. Without the right to it, the same work is done
  // at the common priority.
  static_cast<void>(setpriority(PRIO_PROCESS, static_cast<id_t>(gettid()), kBehindTheModel));
}

}  // namespace

CallWorkers::CallWorkers(int32_t max_queued) : max_queued_(static_cast<size_t>(max_queued)) {
  threads_.reserve(kThreads);
  for (int32_t i = 0; i < kThreads; ++i) threads_.emplace_back([this] { Run(); });
}

CallWorkers::~CallWorkers() {
  {
    absl::MutexLock lock(&mutex_);
    TESSERA_CHECK(queue_.empty());
    stopping_ = true;
  }
  for (std::thread& thread : threads_) thread.join();
}

absl::StatusOr<CallWorkers::Ticket> CallWorkers::Add(Work work) {
  absl::MutexLock lock(&mutex_);
  if (queue_.size() >= max_queued_) {
    return absl::ResourceExhaustedError(
        "too many large requests are being read already; try again later");
  }
  queue_.push_back({next_ticket_, std::move(work)});
  return next_ticket_++;
}

bool CallWorkers::Remove(Ticket ticket) {
  Work removed;  // destroyed without the lock
  absl::MutexLock lock(&mutex_);
  const auto found = std::find_if(queue_.begin(), queue_.end(),
                                  [ticket](const Entry& entry) { return entry.ticket == ticket; });
  if (found == queue_.end()) return false;
  removed = std::move(found->work);
  queue_.erase(found);
  return true;
}

int32_t CallWorkers::num_queued() const {
  absl::MutexLock lock(&mutex_);
  return static_cast<int32_t>(queue_.size());
}

void CallWorkers::Run() {
  GiveWayToTheModel();
  const auto has_news = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return stopping_ || !queue_.empty();
  };
  while (true) {
    Work work;
    {
      absl::MutexLock lock(&mutex_);
      mutex_.Await(absl::Condition(&has_news));
      if (queue_.empty()) return;
      work = std::move(queue_.front().work);
      queue_.pop_front();
    }
    std::move(work)();
  }
}

}  // namespace tessera
