#include "parallel/cluster/store_table.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/core/monotonic_time.h"
#include "kernels/core/status_macros.h"

namespace tessera {

absl::Status StoreTable::Check(const std::string& key) const {
  RETURN_IF_ERROR(failed_);
  if (!key.empty() && key.size() <= kMaxKeyBytes) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("a rendezvous key of ", key.size(), " bytes; 1 to ", kMaxKeyBytes, " work"));
}

absl::Status StoreTable::Set(const std::string& key, const std::string& value) {
  std::vector<OnValue> waiting;
  {
    absl::MutexLock lock(&mutex_);
    RETURN_IF_ERROR(Check(key));
    if (value.size() > kMaxValueBytes || values_.size() >= kMaxKeys) {
      return absl::ResourceExhaustedError(absl::StrCat("the rendezvous store takes ", kMaxKeys,
                                                       " values of at most ", kMaxValueBytes,
                                                       " bytes; refused ", value.size(), " bytes"));
    }
    const auto [at, is_new] = values_.emplace(key, value);
    if (!is_new && at->second != value) {
      return absl::AlreadyExistsError("the rendezvous key has another value already");
    }
    const auto [begin, end] = waiters_.equal_range(key);
    for (auto it = begin; it != end; ++it) waiting.push_back(std::move(it->second));
    waiters_.erase(begin, end);
  }
  for (const OnValue& on_value : waiting) on_value(value);
  return absl::OkStatus();
}

void StoreTable::Await(const std::string& key, OnValue on_value) {
  absl::StatusOr<std::string> result = absl::ResourceExhaustedError("too many rendezvous waiters");
  {
    absl::MutexLock lock(&mutex_);
    const absl::Status status = Check(key);
    const auto found = values_.find(key);
    if (!status.ok()) {
      result = status;
    } else if (found != values_.end()) {
      result = found->second;
    } else if (waiters_.size() < kMaxWaiters) {
      waiters_.emplace(key, std::move(on_value));
      return;
    }
  }
  on_value(result);
}

absl::StatusOr<std::string> StoreTable::Get(const std::string& key, absl::Duration timeout) {
  absl::MutexLock lock(&mutex_);
  const auto ready = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return !Check(key).ok() || values_.contains(key);
  };
  if (!AwaitFor(&mutex_, absl::Condition(&ready), timeout)) {
    return absl::DeadlineExceededError(
        absl::StrCat("no rank has set '", key, "' in the rendezvous store in time"));
  }
  RETURN_IF_ERROR(Check(key));
  return values_.find(key)->second;
}

void StoreTable::Fail(const absl::Status& reason) {
  std::multimap<std::string, OnValue> waiting;
  {
    absl::MutexLock lock(&mutex_);
    if (!failed_.ok()) return;
    failed_ = reason;
    waiting.swap(waiters_);
  }
  for (const auto& [key, on_value] : waiting) on_value(reason);
}

}  // namespace tessera
