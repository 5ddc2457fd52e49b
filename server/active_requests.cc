#include "server/active_requests.h"

#include <vector>

#include "absl/random/random.h"
#include "absl/strings/str_cat.h"
#include "engine/engine.h"

namespace tessera {
namespace {

std::string RandomName() {
  thread_local absl::BitGen generator;
  return absl::StrCat("req-", absl::Hex(absl::Uniform<uint64_t>(generator), absl::kZeroPad16),
                      absl::Hex(absl::Uniform<uint64_t>(generator), absl::kZeroPad16));
}

}  // namespace

absl::Status ActiveRequests::Enter() {
  absl::MutexLock lock(&mutex_);
  if (num_open_ >= limit_) {
    return absl::ResourceExhaustedError(
        absl::StrCat(limit_, " requests are open already; try again later"));
  }
  ++num_open_;
  return absl::OkStatus();
}

absl::StatusOr<std::string> ActiveRequests::Name(const std::string& name) {
  std::string used = name.empty() ? RandomName() : name;
  absl::MutexLock lock(&mutex_);
  if (!entries_.try_emplace(used).second) {
    return absl::AlreadyExistsError(
        absl::StrCat("request_id: a request named \"", used, "\" is still running"));
  }
  return used;
}

bool ActiveRequests::Submitted(const std::string& name, RequestId id) {
  absl::MutexLock lock(&mutex_);
  const auto found = entries_.find(name);
  if (found == entries_.end()) return true;  // it has already ended
  found->second.engine_id = id;
  return !found->second.aborted;
}

void ActiveRequests::Release(const std::string& name) {
  absl::MutexLock lock(&mutex_);
  entries_.erase(name);
}

void ActiveRequests::Leave() {
  absl::MutexLock lock(&mutex_);
  --num_open_;
}

void ActiveRequests::Linger() {
  absl::MutexLock lock(&mutex_);
  ++num_open_;
}

std::optional<ActiveRequests::Found> ActiveRequests::Abort(const std::string& name) {
  absl::MutexLock lock(&mutex_);
  const auto found = entries_.find(name);
  if (found == entries_.end()) return std::nullopt;
  found->second.aborted = true;
  return Found{found->second.engine_id};
}

void ActiveRequests::CancelAll(Engine& engine, const absl::Status& status) {
  std::vector<RequestId> ids;
  {
    absl::MutexLock lock(&mutex_);
    for (const auto& [name, entry] : entries_) {
      if (entry.engine_id) ids.push_back(*entry.engine_id);
    }
  }
  for (const RequestId id : ids) engine.Cancel(id, status);
}

int32_t ActiveRequests::size() const {
  absl::MutexLock lock(&mutex_);
  return num_open_;
}

}  // namespace tessera
