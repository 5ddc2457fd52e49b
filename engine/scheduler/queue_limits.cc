#include "engine/scheduler/queue_limits.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace tessera {

bool QueueLimits::Fits(int64_t more_tokens) const {
  return num_requests_ == 0 ||
         (num_requests_ < max_requests_ && num_tokens_ + more_tokens <= max_tokens_);
}

absl::Status QueueLimits::Full() const {
  if (num_requests_ >= max_requests_) {
    return absl::ResourceExhaustedError(
        absl::StrCat("the queue is full: ", num_requests_, " requests wait; retry later"));
  }
  return absl::ResourceExhaustedError(
      absl::StrCat("the queue is full: ", num_tokens_, " prompt tokens wait; retry later"));
}

// How much of the queue is taken, for the tenant's weight.
double QueueLimits::FillOf(const Holding& holding, int32_t more_requests,
                           int64_t more_tokens) const {
  const auto requests = static_cast<double>(holding.requests.size()) + more_requests;
  const auto tokens = static_cast<double>(holding.tokens + more_tokens);
  return std::max(requests / max_requests_, tokens / static_cast<double>(max_tokens_)) /
         holding.weight;
}

std::optional<QueuedRequest> QueueLimits::NextToLeave(const QueuedRequest& request) const {
  const auto last = classes_.rbegin();
  if (last == classes_.rend() || last->first < request.priority) return std::nullopt;
  const auto& [priority, holdings] = *last;
  const auto most =
      std::max_element(holdings.begin(), holdings.end(), [this](const auto& a, const auto& b) {
        return FillOf(a.second, 0, 0) < FillOf(b.second, 0, 0);
      });
  const auto& [tenant, holding] = *most;
  if (priority == request.priority) {
    if (tenant == request.tenant) return std::nullopt;
    const auto own = holdings.find(request.tenant);
    const Holding none{.weight = request.weight};
    const Holding& before = own != holdings.end() ? own->second : none;
    if (FillOf(before, 1, request.tokens) >= FillOf(holding, 0, 0)) return std::nullopt;
  }
  const auto& [id, tokens] = *holding.requests.rbegin();
  return QueuedRequest{
      .id = id, .priority = priority, .tokens = tokens, .tenant = tenant, .weight = holding.weight};
}

void QueueLimits::Insert(const QueuedRequest& request) {
  Holding& holding = classes_[request.priority][request.tenant];
  holding.weight = request.weight;
  holding.requests.emplace(request.id, request.tokens);
  holding.tokens += request.tokens;
  ++num_requests_;
  num_tokens_ += request.tokens;
}

absl::StatusOr<std::vector<RequestId>> QueueLimits::Enter(const QueuedRequest& request) {
  std::vector<QueuedRequest> leaving;
  while (!Fits(request.tokens)) {
    const std::optional<QueuedRequest> next = NextToLeave(request);
    if (!next.has_value()) {
      for (const QueuedRequest& each : leaving) Insert(each);
      return Full();
    }
    Leave(*next);
    leaving.push_back(*next);
  }
  Insert(request);
  std::vector<RequestId> ids;
  for (const QueuedRequest& each : leaving) ids.push_back(each.id);
  return ids;
}

absl::Status QueueLimits::MadeRoom() {
  return absl::ResourceExhaustedError(
      "the queue is full: this request made room for one of a higher priority, or of a tenant who "
      "had fewer; retry later");
}

void QueueLimits::Leave(const QueuedRequest& request) {
  const auto of_class = classes_.find(request.priority);
  if (of_class == classes_.end()) return;
  const auto found = of_class->second.find(request.tenant);
  if (found == of_class->second.end()) return;
  Holding& holding = found->second;
  if (holding.requests.erase(request.id) == 0) return;
  --num_requests_;
  num_tokens_ -= request.tokens;
  holding.tokens -= request.tokens;
  if (!holding.requests.empty()) return;
  of_class->second.erase(found);
  if (of_class->second.empty()) classes_.erase(of_class);
}

bool QueueLimits::Has(const QueuedRequest& request) const {
  const auto of_class = classes_.find(request.priority);
  if (of_class == classes_.end()) return false;
  const auto found = of_class->second.find(request.tenant);
  return found != of_class->second.end() && found->second.requests.contains(request.id);
}

int32_t QueueLimits::num_before(int32_t priority, const TenantClaim& tenant) const {
  int64_t before = 0;
  for (const auto& [of_class, holdings] : classes_) {
    if (of_class > priority) break;
    const auto own = holdings.find(tenant.name);
    const int64_t own_requests =
        own == holdings.end() ? 0 : static_cast<int64_t>(own->second.requests.size());
    for (const auto& [name, holding] : holdings) {
      const auto count = static_cast<int64_t>(holding.requests.size());
      const double turns =
          std::ceil(static_cast<double>(own_requests + 1) * holding.weight / tenant.weight);
      const bool takes_turns = of_class == priority && name != tenant.name;
      before +=
          takes_turns && turns < static_cast<double>(count) ? static_cast<int64_t>(turns) : count;
    }
  }
  return static_cast<int32_t>(before);
}

std::vector<TenantBacklog> QueueLimits::Backlogs() const {
  std::map<std::string, TenantBacklog> sum;
  for (const auto& [priority, holdings] : classes_) {
    for (const auto& [name, holding] : holdings) {
      TenantBacklog& backlog = sum[name];
      backlog.tenant = name;
      backlog.requests += static_cast<int32_t>(holding.requests.size());
      backlog.tokens += holding.tokens;
    }
  }
  std::vector<TenantBacklog> all;
  for (auto& [name, backlog] : sum) all.push_back(std::move(backlog));
  return all;
}

}  // namespace tessera
