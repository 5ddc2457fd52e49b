// A thread that does one rank's work in order.
#ifndef TESSERA_ENGINE_EXECUTOR_RANK_THREAD_H_
#define TESSERA_ENGINE_EXECUTOR_RANK_THREAD_H_

#include <functional>
#include <memory>
#include <thread>

#include "absl/time/time.h"

namespace tessera {

// Used by one thread.
class RankThread {
 public:
  RankThread();
  ~RankThread();  // finishes what was posted, unless Stop gave up on it
  RankThread(const RankThread&) = delete;
  RankThread& operator=(const RankThread&) = delete;

  // Runs a function on the rank's thread after what was posted before; does not wait.
  void Post(std::function<void()> work);
  // Finishes what was posted and ends the thread. False at the deadline: the thread hangs, and is
  // left to itself together with what its work captured.
  bool Stop(absl::Time deadline);

 private:
  struct State;
  static void Loop(State& state);

  std::shared_ptr<State> state_;
  std::thread thread_;
};

}  // namespace tessera

#endif  // TESSERA_ENGINE_EXECUTOR_RANK_THREAD_H_
