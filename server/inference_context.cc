#include "server/inference_context.h"

#include "absl/strings/str_cat.h"
#include "server/retry_delay.h"

namespace tessera {

absl::Status InferenceContext::Admit(absl::Time deadline, int32_t priority,
                                     const TenantClaim& tenant) {
  const int32_t waiting = engine->NumWaitingBefore(priority, tenant);
  const absl::Time now = clock.Now();
  const WaitForecast::Forecast expected = forecast.Of(now, waiting);
  if (waiting >= engine_options.scheduler.max_queued_requests) {
    return WithRetryDelay(absl::ResourceExhaustedError(absl::StrCat("the queue is full: ", waiting,
                                                                    " requests wait; retry later")),
                          expected.wait);
  }
  if (now + expected.wait + expected.service <= deadline) return absl::OkStatus();
  return WithRetryDelay(
      absl::ResourceExhaustedError(absl::StrCat(
          "the call's deadline cannot be met: ", waiting, " requests wait, which takes about ",
          absl::FormatDuration(absl::Trunc(expected.wait, absl::Milliseconds(1))),
          ", and an answer ",
          absl::FormatDuration(absl::Trunc(expected.service, absl::Milliseconds(1))))),
      expected.wait);
}

absl::StatusOr<Caller> InferenceContext::Authorize(const Credentials& credentials,
                                                   Permission wanted) const {
  if (access == nullptr) return Caller();
  AuthFailure failure = AuthFailure::kMissing;
  absl::StatusOr<Caller> caller = access->Admit(credentials, wanted, &failure);
  if (!caller.ok()) metrics->CountAuthFailure(static_cast<size_t>(failure));
  return caller;
}

}  // namespace tessera
