#include "server/wait_forecast.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <deque>
#include <functional>
#include <queue>
#include <random>
#include <vector>

namespace tessera {
namespace {

constexpr int kSlots = 60;
constexpr double kMeanService = 0.3;                 // seconds
constexpr double kCapacity = kSlots / kMeanService;  // requests per second
constexpr double kPatience = 1.2;                    // seconds until a request's deadline

struct Outcome {
  double goodput = 0;  // answers in time per second
  int refused = 0;
  int late = 0;  // admitted in vain
};

// A server with so many places, first come, first served, under an open loop of `load` times its
// capacity, in virtual time. What is past its deadline leaves the queue and its place.
class Simulation {
 public:
  explicit Simulation(double load) : arrivals_(load * kCapacity) {}

  Outcome Run(double seconds, double measured_from) {
    double next = 0;
    while (next < seconds) {
      if (!ends_.empty() && ends_.top().at <= next) {
        End();
      } else {
        now_ = next;
        Arrive();
        next += arrivals_(random_);
      }
      measuring_ = now_ >= measured_from;
    }
    outcome_.goodput = in_time_ / (seconds - measured_from);
    return outcome_;
  }

 private:
  struct Running {
    double at;  // of the end
    double began;
    double deadline;
    bool operator>(const Running& other) const { return at > other.at; }
  };
  absl::Time Now() const { return absl::UnixEpoch() + absl::Seconds(now_); }

  void Arrive() {
    const auto [wait, service] = forecast_.Of(Now(), static_cast<int32_t>(queue_.size()));
    if (wait + service > absl::Seconds(kPatience)) {
      outcome_.refused += measuring_ ? 1 : 0;
      return;
    }
    queue_.push_back(now_ + kPatience);
    Fill();
  }
  void Fill() {
    while (static_cast<int>(ends_.size()) < kSlots && !queue_.empty()) {
      const double deadline = queue_.front();
      queue_.pop_front();
      if (deadline <= now_) {
        outcome_.late += measuring_ ? 1 : 0;
        continue;
      }
      const double end = now_ + service_(random_);
      ends_.push({std::min(end, deadline), now_, end <= deadline ? deadline : 0});
    }
  }
  void End() {
    const Running ended = ends_.top();
    ends_.pop();
    now_ = ended.at;
    const bool in_time = ended.deadline > 0;
    if (in_time) {
      forecast_.Finished(Now(), absl::Seconds(ended.at - ended.began),
                         static_cast<int32_t>(queue_.size()));
    }
    if (measuring_) (in_time ? in_time_ : outcome_.late) += 1;
    Fill();
  }

  std::mt19937 random_{11};
  std::exponential_distribution<double> arrivals_;
  std::uniform_real_distribution<double> service_{0.2, 0.4};
  WaitForecast forecast_;
  double now_ = 0;
  bool measuring_ = false;
  int in_time_ = 0;
  std::deque<double> queue_;  // deadlines
  std::priority_queue<Running, std::vector<Running>, std::greater<>> ends_;
  Outcome outcome_;
};

TEST(WaitForecastTest, NothingIsRefusedBelowCapacity) {
  for (const double load : {0.1, 0.5, 0.8}) {
    const Outcome outcome = Simulation(load).Run(30, 0);
    EXPECT_EQ(outcome.refused, 0) << load;
    EXPECT_NEAR(outcome.goodput, load * kCapacity, 0.1 * load * kCapacity);
  }
}

TEST(WaitForecastTest, OverloadCostsLittle) {
  for (const double load : {1.2, 2.0, 5.0, 20.0}) {
    const Outcome outcome = Simulation(load).Run(30, 5);
    EXPECT_GE(outcome.goodput, 0.9 * kCapacity) << load;
    EXPECT_LE(outcome.late, 0.1 * kCapacity * 25) << load;
    EXPECT_GT(outcome.refused, 0) << load;
  }
}

TEST(WaitForecastTest, KnowsNothingAtFirst) {
  WaitForecast forecast;
  EXPECT_EQ(forecast.Of(absl::UnixEpoch(), 1000).wait, absl::ZeroDuration());
  // A server that nobody waits for says nothing about what it could do.
  absl::Time now = absl::UnixEpoch();
  for (int i = 0; i < 100; ++i) {
    now += absl::Seconds(1);
    forecast.Finished(now, absl::Milliseconds(10), 0);
  }
  EXPECT_EQ(forecast.Of(now, 1000).wait, absl::ZeroDuration());
}

}  // namespace
}  // namespace tessera
