#include "server/retry_delay.h"

#include <algorithm>
#include <string>

#include "absl/strings/cord.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"

namespace tessera {
namespace {

// Stays inside this process: milliseconds as text.
constexpr absl::string_view kPayload = "tessera/retry-delay-ms";

}  // namespace

absl::Status WithRetryDelay(absl::Status status, absl::Duration delay) {
  const absl::Duration kept = std::clamp(delay, kLeastRetryDelay, kMostRetryDelay);
  status.SetPayload(kPayload, absl::Cord(absl::StrCat(absl::ToInt64Milliseconds(kept))));
  return status;
}

absl::Duration RetryDelayOf(const absl::Status& status) {
  const auto payload = status.GetPayload(kPayload);
  int64_t milliseconds = 0;
  if (!payload || !absl::SimpleAtoi(std::string(*payload), &milliseconds)) return kLeastRetryDelay;
  return absl::Milliseconds(milliseconds);
}

}  // namespace tessera
