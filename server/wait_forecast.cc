#include "server/wait_forecast.h"

#include <cmath>

namespace tessera {
namespace {

constexpr absl::Duration kWindow = absl::Milliseconds(250);
// Fewer ends say little about a rate.
constexpr int64_t kLeastFinished = 4;
// How much the last window and the last request weigh.
constexpr double kRateWeight = 0.3;
constexpr double kServiceWeight = 0.05;
// How many mean deviations above the mean a request is expected to take.
constexpr double kCaution = 2;

}  // namespace

void WaitForecast::Finished(absl::Time now, absl::Duration service, int32_t num_waiting) {
  const double seconds = absl::ToDoubleSeconds(service);
  absl::MutexLock lock(&mutex_);
  if (service_ == 0) {
    service_ = seconds;
  } else {
    deviation_ += kServiceWeight * (std::abs(seconds - service_) - deviation_);
    service_ += kServiceWeight * (seconds - service_);
  }
  if (num_waiting == 0) always_busy_ = false;
  ++num_finished_;
  CloseWindow(now);
  if (num_finished_ == 0) always_busy_ = num_waiting > 0;
}

void WaitForecast::CloseWindow(absl::Time now) {
  const absl::Duration length = now - window_begin_;
  if (length < kWindow || (always_busy_ && num_finished_ < kLeastFinished)) return;
  if (always_busy_) {
    const double rate = static_cast<double>(num_finished_) / absl::ToDoubleSeconds(length);
    rate_ = rate_ == 0 ? rate : rate_ + kRateWeight * (rate - rate_);
  }
  window_begin_ = now;
  num_finished_ = 0;
}

WaitForecast::Forecast WaitForecast::Of(absl::Time now, int32_t num_waiting) {
  absl::MutexLock lock(&mutex_);
  if (num_waiting == 0) {
    // Nobody waits: what is measured now is not what the engine can do.
    window_begin_ = now;
    num_finished_ = 0;
    always_busy_ = false;
    return {};
  }
  if (rate_ == 0) return {};
  return {.wait = absl::Seconds((num_waiting + 1) / rate_),
          .service = absl::Seconds(service_ + kCaution * deviation_)};
}

}  // namespace tessera
