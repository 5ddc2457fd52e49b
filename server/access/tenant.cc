#include "server/access/tenant.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"

namespace tessera {
namespace {

constexpr double kSecondsPerMinute = 60;

}  // namespace

Tenant::Tenant(std::string name, const TenantLimits& limits)
    : name_(std::move(name)), limits_(limits) {}

void Tenant::SetLimits(const TenantLimits& limits) {
  absl::MutexLock lock(&mutex_);
  limits_ = limits;
}

int32_t Tenant::priority() const {
  absl::MutexLock lock(&mutex_);
  return limits_.priority;
}

TenantClaim Tenant::claim() const {
  absl::MutexLock lock(&mutex_);
  return {.name = name_, .weight = limits_.weight, .kv_share = limits_.kv_share};
}

void Tenant::Bucket::Fill(absl::Time now, double per_second, double most) {
  if (std::isinf(per_second)) {  // nothing is owed when a limit comes
    *this = {};
    return;
  }
  const double more = filled == absl::InfinitePast()
                          ? most
                          : std::max(0.0, absl::ToDoubleSeconds(now - filled)) * per_second;
  level = std::min(most, level + more);
  filled = now;
}

absl::Duration Tenant::Bucket::TimeUntil(double wanted, double per_second) const {
  return absl::Seconds(std::max(0.0, wanted - level) / per_second);
}

std::optional<TenantRefusal> Tenant::Refusal(absl::Time now) {
  if (static_cast<double>(counts_.open) >= limits_.concurrent_streams) {
    return TenantRefusal{TenantLimit::kStreams,
                         absl::StrCat("the tenant \"", name_, "\" has ", counts_.open,
                                      " open requests, which is its limit"),
                         absl::ZeroDuration()};
  }
  const double tokens_per_second = limits_.tokens_per_minute / kSecondsPerMinute;
  tokens_.Fill(now, tokens_per_second, limits_.tokens_per_minute);
  if (std::isfinite(tokens_per_second) && tokens_.level <= 0) {
    return TenantRefusal{TenantLimit::kTokens,
                         absl::StrCat("the tenant \"", name_, "\" has used its ",
                                      limits_.tokens_per_minute, " tokens per minute"),
                         tokens_.TimeUntil(1, tokens_per_second)};
  }
  const double per_second = limits_.requests_per_second;
  requests_.Fill(now, per_second, std::max(1.0, per_second));
  if (!std::isfinite(per_second)) return std::nullopt;
  if (requests_.level < 1) {
    return TenantRefusal{TenantLimit::kRequests,
                         absl::StrCat("the tenant \"", name_, "\" has used its ", per_second,
                                      " requests per second"),
                         requests_.TimeUntil(1, per_second)};
  }
  requests_.level -= 1;
  return std::nullopt;
}

std::optional<TenantRefusal> Tenant::Enter(absl::Time now) {
  absl::MutexLock lock(&mutex_);
  std::optional<TenantRefusal> refusal = Refusal(now);
  if (refusal) {
    ++counts_.refused[static_cast<size_t>(refusal->limit)];
  } else {
    ++counts_.open;
    ++counts_.requests;
  }
  return refusal;
}

void Tenant::Leave() {
  absl::MutexLock lock(&mutex_);
  --counts_.open;
}

void Tenant::UsePromptTokens(int64_t count) {
  absl::MutexLock lock(&mutex_);
  counts_.prompt_tokens += count;
  tokens_.level -= static_cast<double>(count);
}

void Tenant::UseGeneratedTokens(int64_t count) {
  absl::MutexLock lock(&mutex_);
  counts_.generation_tokens += count;
  tokens_.level -= static_cast<double>(count);
}

TenantCounts Tenant::counts() const {
  absl::MutexLock lock(&mutex_);
  return counts_;
}

}  // namespace tessera
