// What the ranks of one process that belong to one group share: who has called what, who has left,
// and why the group has failed. NCCL itself tells none of this, and waits for ever.
#ifndef TESSERA_PARALLEL_NCCL_NCCL_GROUP_H_
#define TESSERA_PARALLEL_NCCL_NCCL_GROUP_H_

#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "parallel/rendezvous_store.h"

namespace tessera::cuda {

// A rank whose operations can be ended from outside.
class NcclMember {
 public:
  virtual ~NcclMember() = default;
  // Ends what is on the GPU; the rank fails with `reason`. Any thread.
  virtual void GiveUp(const absl::Status& reason) = 0;
};

class PeerWindows;

// Any thread.
class NcclGroup {
 public:
  struct Call {
    std::string_view operation;  // a literal
    int64_t bytes = 0;           // equal on all ranks
  };

  NcclGroup(std::string name, int size) : name_(std::move(name)), size_(size), ranks_(size) {}

  const std::string& name() const { return name_; }
  int size() const { return size_; }

  // The memory of all ranks of this process that their peers use; goes with its last user.
  std::shared_ptr<PeerWindows> Windows();

  void Join(int rank, NcclMember* member);
  // Ranks that wait for a call which this one has not made wait in vain from now on.
  void Leave(int rank);

  // The next call of a rank. Not OK when the group has failed, and INTERNAL when another rank of
  // this process has made a different call in its place.
  absl::Status Enter(int rank, const Call& call);
  // Not OK when a rank has left without making the call that has this number (0, 1, ... per rank).
  absl::Status CheckPresent(uint64_t number) const;
  // What to say of a call that has waited for too long.
  absl::Status TimeOut(uint64_t number, std::string_view operation, absl::Duration waited) const;

  // The first failure stays. Returns it.
  absl::Status Fail(const absl::Status& reason);
  // The same, and all ranks of this process give up.
  void Abort(const absl::Status& reason);
  absl::Status status() const;

  // RendezvousStore::Get that also ends, within a second, when the group fails.
  absl::StatusOr<std::string> Await(RendezvousStore& store, const std::string& key,
                                    absl::Duration timeout) const;

 private:
  struct Rank {
    NcclMember* member = nullptr;
    bool joined = false;
    bool left = false;
    uint64_t calls = 0;
  };
  // A call that some rank of this process has not made.
  struct Expected {
    Call call;
    int first = 0;  // rank that made it
  };

  void ForgetOldCalls() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status FailLocked(const absl::Status& reason) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const std::string name_;
  const int size_;
  mutable absl::Mutex mutex_;
  absl::Status status_ ABSL_GUARDED_BY(mutex_);
  std::weak_ptr<PeerWindows> windows_ ABSL_GUARDED_BY(mutex_);
  std::vector<Rank> ranks_ ABSL_GUARDED_BY(mutex_);
  std::deque<Expected> calls_ ABSL_GUARDED_BY(mutex_);
  uint64_t first_call_ ABSL_GUARDED_BY(mutex_) = 0;  // number of calls_[0]
};

}  // namespace tessera::cuda

#endif  // TESSERA_PARALLEL_NCCL_NCCL_GROUP_H_
