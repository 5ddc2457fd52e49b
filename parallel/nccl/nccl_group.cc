#include "parallel/nccl/nccl_group.h"

#include <algorithm>
#include <limits>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "parallel/nccl/peer_memory.h"

namespace tessera::cuda {
namespace {

std::string Describe(int rank, const NcclGroup::Call& call) {
  return absl::StrCat("rank ", rank, " called ", std::string(call.operation), " of ", call.bytes,
                      " bytes");
}

}  // namespace

std::shared_ptr<PeerWindows> NcclGroup::Windows() {
  absl::MutexLock lock(&mutex_);
  std::shared_ptr<PeerWindows> windows = windows_.lock();
  if (windows == nullptr) windows_ = windows = std::make_shared<PeerWindows>();
  return windows;
}

void NcclGroup::Join(int rank, NcclMember* member) {
  absl::MutexLock lock(&mutex_);
  ranks_[rank] = {.member = member, .joined = true};
}

void NcclGroup::Leave(int rank) {
  absl::MutexLock lock(&mutex_);
  ranks_[rank].member = nullptr;
  ranks_[rank].left = true;
  ForgetOldCalls();
}

absl::Status NcclGroup::Enter(int rank, const Call& call) {
  absl::MutexLock lock(&mutex_);
  if (!status_.ok()) return status_;
  const uint64_t number = ranks_[rank].calls++;
  if (number >= first_call_ + calls_.size()) {
    calls_.push_back({.call = call, .first = rank});
    ForgetOldCalls();
    return absl::OkStatus();
  }
  const Expected& expected = calls_[number - first_call_];
  if (expected.call.operation != call.operation || expected.call.bytes != call.bytes) {
    return FailLocked(absl::InternalError(
        absl::StrCat(Describe(expected.first, expected.call), " but ", Describe(rank, call))));
  }
  ForgetOldCalls();
  return absl::OkStatus();
}

void NcclGroup::ForgetOldCalls() {
  uint64_t made_by_all = std::numeric_limits<uint64_t>::max();
  for (const Rank& rank : ranks_) {
    if (rank.joined && !rank.left) made_by_all = std::min(made_by_all, rank.calls);
  }
  while (!calls_.empty() && first_call_ < made_by_all) {
    calls_.pop_front();
    ++first_call_;
  }
}

absl::Status NcclGroup::CheckPresent(uint64_t number) const {
  absl::MutexLock lock(&mutex_);
  if (!status_.ok()) return status_;
  for (size_t r = 0; r < ranks_.size(); ++r) {
    if (ranks_[r].left && ranks_[r].calls <= number) {
      return absl::UnavailableError(absl::StrCat("rank ", r, " left the group"));
    }
  }
  return absl::OkStatus();
}

absl::Status NcclGroup::TimeOut(uint64_t number, std::string_view operation,
                                absl::Duration waited) const {
  absl::MutexLock lock(&mutex_);
  std::vector<std::string> missing;
  for (size_t r = 0; r < ranks_.size(); ++r) {
    if (ranks_[r].joined && ranks_[r].calls <= number) missing.push_back(absl::StrCat("rank ", r));
  }
  const std::string where = absl::StrCat(std::string(operation), " of group ", name_, " within ",
                                         absl::FormatDuration(waited));
  if (missing.empty()) {
    return absl::DeadlineExceededError(
        absl::StrCat("the GPUs did not finish ", where, "; a rank of another process is missing"));
  }
  return absl::DeadlineExceededError(
      absl::StrCat(absl::StrJoin(missing, ", "), " did not come to ", where));
}

absl::Status NcclGroup::FailLocked(const absl::Status& reason) {
  status_.Update(reason);
  return status_;
}

absl::Status NcclGroup::Fail(const absl::Status& reason) {
  absl::MutexLock lock(&mutex_);
  return FailLocked(reason);
}

void NcclGroup::Abort(const absl::Status& reason) {
  absl::MutexLock lock(&mutex_);
  status_.Update(reason);
  for (const Rank& rank : ranks_) {
    if (rank.member != nullptr) rank.member->GiveUp(status_);
  }
}

absl::Status NcclGroup::status() const {
  absl::MutexLock lock(&mutex_);
  return status_;
}

absl::StatusOr<std::string> NcclGroup::Await(RendezvousStore& store, const std::string& key,
                                             absl::Duration timeout) const {
  constexpr absl::Duration kRound = absl::Milliseconds(200);
  while (true) {
    if (absl::Status failed = status(); !failed.ok()) return failed;
    absl::StatusOr<std::string> value = store.Get(key, std::min(timeout, kRound));
    if (value.ok() || !absl::IsDeadlineExceeded(value.status()) || timeout <= kRound) return value;
    timeout -= kRound;
  }
}

}  // namespace tessera::cuda
