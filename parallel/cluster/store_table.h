// The group's rendezvous store as the head keeps it.
#ifndef TESSERA_PARALLEL_CLUSTER_STORE_TABLE_H_
#define TESSERA_PARALLEL_CLUSTER_STORE_TABLE_H_

#include <functional>
#include <map>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "parallel/rendezvous_store.h"

namespace tessera {

class StoreTable : public RendezvousStore {
 public:
  static constexpr size_t kMaxKeyBytes = 512;
  static constexpr size_t kMaxValueBytes = size_t{1} << 20;
  static constexpr size_t kMaxKeys = size_t{1} << 16;
  static constexpr size_t kMaxWaiters = size_t{1} << 16;

  absl::Status Set(const std::string& key, const std::string& value) override;
  absl::StatusOr<std::string> Get(const std::string& key, absl::Duration timeout) override;

  // Called once, from any thread and without locks held, when the key is there or the table fails.
  using OnValue = std::function<void(const absl::StatusOr<std::string>&)>;
  void Await(const std::string& key, OnValue on_value);
  // Everyone who waits, or comes later, gets `reason`.
  void Fail(const absl::Status& reason);

 private:
  absl::Status Check(const std::string& key) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  absl::Mutex mutex_;
  std::map<std::string, std::string> values_ ABSL_GUARDED_BY(mutex_);
  std::multimap<std::string, OnValue> waiters_ ABSL_GUARDED_BY(mutex_);
  absl::Status failed_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace tessera

#endif  // TESSERA_PARALLEL_CLUSTER_STORE_TABLE_H_
