#include "server/active_requests.h"

#include <algorithm>
#include <vector>

#include "absl/random/random.h"
#include "absl/strings/str_cat.h"
#include "engine/engine.h"

namespace tessera {
namespace {

// With all its tenants a server has less than so many times the limit.
constexpr int64_t kMostOver = 2;

std::string RandomName() {
  thread_local absl::BitGen generator;
  return absl::StrCat("req-", absl::Hex(absl::Uniform<uint64_t>(generator), absl::kZeroPad16),
                      absl::Hex(absl::Uniform<uint64_t>(generator), absl::kZeroPad16));
}

}  // namespace

bool ActiveRequests::HasRoom(const TenantClaim& tenant) const {
  if (num_open_ < limit_) return true;
  double weights = 0;
  for (const auto& [name, open] : tenants_) weights += name == tenant.name ? 0 : open.weight;
  const auto own = tenants_.find(tenant.name);
  const int32_t calls = own == tenants_.end() ? 0 : own->second.calls;
  if (weights == 0 || num_open_ >= kMostOver * limit_) return false;
  return calls < std::max(1.0, limit_ * tenant.weight / (weights + tenant.weight));
}

void ActiveRequests::Count(const TenantClaim& tenant) {
  ++num_open_;
  Open& open = tenants_[tenant.name];
  ++open.calls;
  open.weight = tenant.weight;
}

absl::Status ActiveRequests::Enter(const TenantClaim& tenant) {
  absl::MutexLock lock(&mutex_);
  if (!HasRoom(tenant)) {
    return absl::ResourceExhaustedError(
        absl::StrCat(num_open_, " requests are open already; try again later"));
  }
  Count(tenant);
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

void ActiveRequests::Leave(const TenantClaim& tenant) {
  absl::MutexLock lock(&mutex_);
  --num_open_;
  const auto found = tenants_.find(tenant.name);
  if (--found->second.calls == 0) tenants_.erase(found);
}

void ActiveRequests::Linger(const TenantClaim& tenant) {
  absl::MutexLock lock(&mutex_);
  Count(tenant);
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
