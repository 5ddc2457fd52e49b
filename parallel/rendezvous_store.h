// Where ranks leave their addresses for each other before they are connected.
#ifndef TESSERA_PARALLEL_RENDEZVOUS_STORE_H_
#define TESSERA_PARALLEL_RENDEZVOUS_STORE_H_

#include <condition_variable>
#include <map>
#include <mutex>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace tessera {

// Bytes by key. Thread-safe. Every key is set once.
class RendezvousStore {
 public:
  virtual ~RendezvousStore() = default;
  virtual absl::Status Set(const std::string& key, const std::string& value) = 0;
  // Waits for the key; DEADLINE_EXCEEDED, naming it, when nobody has set it in time.
  virtual absl::StatusOr<std::string> Get(const std::string& key, absl::Duration timeout) = 0;
};

// Between threads of one process.
class MemoryRendezvousStore : public RendezvousStore {
 public:
  absl::Status Set(const std::string& key, const std::string& value) override;
  absl::StatusOr<std::string> Get(const std::string& key, absl::Duration timeout) override;

 private:
  std::mutex mutex_;  // guards values_
  std::condition_variable changed_;
  std::map<std::string, std::string> values_;
};

// Between processes that share a folder, which must exist and be empty at first.
class FileRendezvousStore : public RendezvousStore {
 public:
  explicit FileRendezvousStore(std::string folder) : folder_(std::move(folder)) {}
  absl::Status Set(const std::string& key, const std::string& value) override;
  absl::StatusOr<std::string> Get(const std::string& key, absl::Duration timeout) override;

 private:
  std::string PathOf(const std::string& key) const;

  const std::string folder_;
};

}  // namespace tessera

#endif  // TESSERA_PARALLEL_RENDEZVOUS_STORE_H_
