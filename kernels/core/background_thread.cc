#include "kernels/core/background_thread.h"

#include <pthread.h>

#include <csignal>
#include <thread>
#include <utility>

namespace tessera {

void StartBackgroundThread(std::function<void()> body) {
  sigset_t all;
  sigset_t before;
  sigfillset(&all);
  pthread_sigmask(SIG_BLOCK, &all, &before);
  std::thread(std::move(body)).detach();
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

}  // namespace tessera
