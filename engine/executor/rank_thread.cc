#include "engine/executor/rank_thread.h"

#include <deque>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"

namespace tessera {

struct RankThread::State {
  absl::Mutex mutex;
  std::deque<std::function<void()>> work ABSL_GUARDED_BY(mutex);
  bool stop ABSL_GUARDED_BY(mutex) = false;
  bool finished ABSL_GUARDED_BY(mutex) = false;
};

RankThread::RankThread()
    : state_(std::make_shared<State>()), thread_([state = state_] { Loop(*state); }) {}

RankThread::~RankThread() { Stop(absl::InfiniteFuture()); }

void RankThread::Post(std::function<void()> work) {
  absl::MutexLock lock(&state_->mutex);
  state_->work.push_back(std::move(work));
}

bool RankThread::Stop(absl::Time deadline) {
  if (!thread_.joinable()) return true;
  {
    absl::MutexLock lock(&state_->mutex);
    state_->stop = true;
    if (!state_->mutex.AwaitWithDeadline(absl::Condition(&state_->finished), deadline)) {
      thread_.detach();
      return false;
    }
  }
  thread_.join();
  return true;
}

void RankThread::Loop(State& state) {
  const auto ready = [&state]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(state.mutex) {
    return state.stop || !state.work.empty();
  };
  while (true) {
    std::function<void()> work;
    {
      absl::MutexLock lock(&state.mutex);
      state.mutex.Await(absl::Condition(&ready));
      if (state.work.empty()) {
        state.finished = true;
        return;
      }
      work = std::move(state.work.front());
      state.work.pop_front();
    }
    work();
  }
}

}  // namespace tessera
