// A server in a process of its own, for measurements that no thread of the client may disturb.
#ifndef TESSERA_TESTS_BENCH_SERVER_PROCESS_H_
#define TESSERA_TESTS_BENCH_SERVER_PROCESS_H_

#include <sys/types.h>

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "server/model_runtime.h"

namespace tessera {

// Used by one thread.
class ServerProcess {
 public:
  // Forks, loads the model there and serves it on a free loopback port. Only for a process that
  // has no threads yet: they would not exist in the fork. An error is the server's.
  static absl::StatusOr<std::unique_ptr<ServerProcess>> Start(const RuntimeOptions& options);
  ~ServerProcess();  // ends the server and waits for it
  ServerProcess(const ServerProcess&) = delete;
  ServerProcess& operator=(const ServerProcess&) = delete;

  std::string address() const;  // HOST:PORT
  int32_t port() const { return port_; }
  int32_t vocab_size() const { return vocab_size_; }
  // What the server's executor has taken so far. Exact between requests, when no step runs.
  absl::Duration execution() const { return absl::Nanoseconds(execution_ns_->load()); }

 private:
  // In memory that both processes see.
  using Nanoseconds = std::atomic<int64_t>;
  static_assert(Nanoseconds::is_always_lock_free);

  ServerProcess(pid_t pid, int lifeline, Nanoseconds* execution_ns)
      : pid_(pid), lifeline_(lifeline), execution_ns_(execution_ns) {}

  const pid_t pid_;
  const int lifeline_;  // a pipe: the server ends when it closes
  Nanoseconds* const execution_ns_;
  int32_t port_ = 0;
  int32_t vocab_size_ = 0;
};

}  // namespace tessera

#endif  // TESSERA_TESTS_BENCH_SERVER_PROCESS_H_
