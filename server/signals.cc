#include "server/signals.h"

#include <csignal>
#include <utility>

namespace tessera {
namespace {

// Ends the watcher's thread.
constexpr int kStopSignal = SIGUSR2;

}  // namespace

SignalWatcher::SignalWatcher(std::function<void(int)> on_signal, std::function<void()> on_hangup)
    : on_signal_(std::move(on_signal)), on_hangup_(std::move(on_hangup)) {
  std::signal(SIGPIPE, SIG_IGN);
  const sigset_t signals = Watched();
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  thread_ = std::thread([this] { Run(); });
}

SignalWatcher::~SignalWatcher() {
  pthread_kill(thread_.native_handle(), kStopSignal);
  thread_.join();
}

sigset_t SignalWatcher::Watched() const {
  sigset_t signals;
  sigemptyset(&signals);
  for (const int signal : {SIGINT, SIGTERM, kStopSignal}) sigaddset(&signals, signal);
  if (on_hangup_) sigaddset(&signals, SIGHUP);
  return signals;
}

void SignalWatcher::Run() {
  const sigset_t signals = Watched();
  int count = 0;
  std::chrono::steady_clock::time_point counted;
  while (true) {
    int signal = 0;
    if (sigwait(&signals, &signal) != 0 || signal == kStopSignal) return;
    if (signal == SIGHUP) {
      on_hangup_();
      continue;
    }
    if (count > 0 && std::chrono::steady_clock::now() - counted < kOneWish) continue;
    on_signal_(++count);
    counted = std::chrono::steady_clock::now();  // what came meanwhile came with it
  }
}

}  // namespace tessera
