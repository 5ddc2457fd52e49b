// SIGINT, SIGTERM and SIGHUP as calls on a thread of their own.
#ifndef TESSERA_SERVER_SIGNALS_H_
#define TESSERA_SERVER_SIGNALS_H_

#include <chrono>
#include <csignal>
#include <functional>
#include <thread>

namespace tessera {

// Signals within this time after one that was counted are the same wish: supervisors signal whole
// process groups, and send SIGINT and SIGTERM together.
constexpr std::chrono::milliseconds kOneWish(100);

// Make it before every other thread: they inherit the blocked signals. One per process. SIGPIPE is
// ignored from then on.
class SignalWatcher {
 public:
  // `on_signal` gets 1 for the first signal, 2 for the second one that counts, …; `on_hangup` is
  // called for SIGHUP, which does what it always did when it is empty.
  explicit SignalWatcher(std::function<void(int)> on_signal, std::function<void()> on_hangup = {});
  ~SignalWatcher();
  SignalWatcher(const SignalWatcher&) = delete;
  SignalWatcher& operator=(const SignalWatcher&) = delete;

 private:
  void Run();
  sigset_t Watched() const;

  std::function<void(int)> on_signal_;
  std::function<void()> on_hangup_;
  std::thread thread_;
};

}  // namespace tessera

#endif  // TESSERA_SERVER_SIGNALS_H_
