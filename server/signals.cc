#include "server/signals.h"

#include <csignal>
#include <utility>

namespace tessera {
namespace {

// Ends the watcher's thread.
constexpr int kStopSignal = SIGUSR2;

sigset_t WatchedSignals() {
  sigset_t signals;
  sigemptyset(&signals);
  for (const int signal : {SIGINT, SIGTERM, kStopSignal}) sigaddset(&signals, signal);
  return signals;
}

}  // namespace

SignalWatcher::SignalWatcher(std::function<void(int)> on_signal)
    : on_signal_(std::move(on_signal)) {
  std::signal(SIGPIPE, SIG_IGN);
  const sigset_t signals = WatchedSignals();
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  thread_ = std::thread([this] { Run(); });
}

SignalWatcher::~SignalWatcher() {
  pthread_kill(thread_.native_handle(), kStopSignal);
  thread_.join();
}

void SignalWatcher::Run() {
  const sigset_t signals = WatchedSignals();
  int count = 0;
  std::chrono::steady_clock::time_point counted;
  while (true) {
    int signal = 0;
    if (sigwait(&signals, &signal) != 0 || signal == kStopSignal) return;
    if (count > 0 && std::chrono::steady_clock::now() - counted < kOneWish) continue;
    on_signal_(++count);
    counted = std::chrono::steady_clock::now();  // what came meanwhile came with it
  }
}

}  // namespace tessera
