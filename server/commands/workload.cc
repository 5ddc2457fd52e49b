#include "server/commands/workload.h"

#include <algorithm>
#include <array>
#include <random>
#include <string>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "kernels/core/monotonic_time.h"

namespace tessera {
namespace {

// A token each, behind a blank, for most tokenisers.
constexpr std::array kWords = {
    "time",  "year", "people", "way",   "day",   "man",   "thing", "world", "life",
    "hand",  "part", "place",  "case",  "week",  "work",  "point", "home",  "water",
    "room",  "area", "money",  "story", "fact",  "month", "lot",   "right", "study",
    "book",  "eye",  "job",    "word",  "house", "side",  "kind",  "head",  "city",
    "power", "hour", "game",   "line",  "end",   "war",   "name",  "car"};

class WorkloadRun {
 public:
  WorkloadRun(TextGenerator* generator, const LoadPlan& plan, const RequestStyle& style,
              const WorkloadControl& control)
      : generator_(*generator), plan_(plan), style_(style), control_(control) {}

  WorkloadResult Run() {
    const auto count = std::min<size_t>(plan_.concurrency, plan_.requests.size());
    absl::Notification ended;
    std::thread reporter;
    if (control_.on_progress) reporter = std::thread([&] { Report(&ended); });
    std::vector<std::thread> threads;
    for (size_t i = 0; i < count; ++i) threads.emplace_back([this] { SendUntilTheEnd(); });
    for (std::thread& thread : threads) thread.join();
    const double seconds = absl::ToDoubleSeconds(MonotonicNow() - start_);
    ended.Notify();
    if (reporter.joinable()) reporter.join();
    absl::MutexLock lock(&mutex_);
    return {.samples = std::move(samples_), .seconds = seconds};
  }

 private:
  bool IsCancelled() const { return control_.cancelled != nullptr && control_.cancelled->load(); }

  void SendUntilTheEnd() {
    while (true) {
      const size_t index = next_.fetch_add(1);
      if (index >= plan_.requests.size()) return;
      const PlannedRequest& planned = plan_.requests[index];
      const absl::Time now = MonotonicNow();
      const absl::Time due = plan_.is_open ? start_ + planned.at : now;
      if (due - start_ > control_.stop_after || !WaitFor(due)) return;
      ++sent_;
      RequestSample sample = Send(planned, static_cast<int32_t>(index), due);
      ++done_;
      // What this program gave up says nothing about the server.
      if (IsCancelled() && !sample.status.ok()) return;
      if (!sample.status.ok()) ++failed_;
      absl::MutexLock lock(&mutex_);
      samples_.push_back(std::move(sample));
    }
  }

  // False: the load ends before.
  bool WaitFor(absl::Time due) const {
    constexpr absl::Duration kLook = absl::Milliseconds(50);
    while (!IsCancelled()) {
      const absl::Duration left = due - MonotonicNow();
      if (left <= absl::ZeroDuration()) return true;
      absl::SleepFor(std::min(left, kLook));
    }
    return false;
  }

  RequestSample Send(const PlannedRequest& planned, int32_t seed, absl::Time due) {
    const v1::GenerateRequest request = MadeRequest(planned, style_, seed);
    RequestSample sample;
    sample.lateness = absl::ToDoubleSeconds(MonotonicNow() - due);
    absl::Time last = due;
    sample.status = generator_.Stream(
        request,
        [&](const v1::GenerateResponse& delta) {
          const absl::Time now = MonotonicNow();
          sample.prompt_tokens = delta.usage().prompt_tokens();
          const int64_t fresh = delta.usage().completion_tokens() - sample.output_tokens;
          if (fresh <= 0) return;
          tokens_ += fresh;
          const double seconds = absl::ToDoubleSeconds(now - last);
          if (sample.output_tokens == 0) {
            sample.time_to_first_token = seconds;
          } else {
            sample.inter_token.insert(sample.inter_token.end(), fresh,
                                      seconds / static_cast<double>(fresh));
          }
          sample.output_tokens += fresh;
          last = now;
        },
        control_.cancelled);
    sample.end_to_end = absl::ToDoubleSeconds(MonotonicNow() - due);
    return sample;
  }

  void Report(const absl::Notification* ended) const {
    while (!ended->WaitForNotificationWithTimeout(control_.period)) {
      control_.on_progress({.seconds = absl::ToDoubleSeconds(MonotonicNow() - start_),
                            .sent = sent_,
                            .done = done_,
                            .failed = failed_,
                            .output_tokens = tokens_});
    }
  }

  TextGenerator& generator_;
  const LoadPlan& plan_;
  const RequestStyle& style_;
  const WorkloadControl& control_;
  const absl::Time start_ = MonotonicNow();
  std::atomic<size_t> next_{0};
  std::atomic<int64_t> sent_{0};
  std::atomic<int64_t> done_{0};
  std::atomic<int64_t> failed_{0};
  std::atomic<int64_t> tokens_{0};
  absl::Mutex mutex_;
  std::vector<RequestSample> samples_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace

int64_t WorkloadResult::num_failed() const {
  return std::ranges::count_if(samples, [](const RequestSample& s) { return !s.status.ok(); });
}

int64_t WorkloadResult::output_tokens() const {
  int64_t tokens = 0;
  for (const RequestSample& sample : samples) tokens += sample.output_tokens;
  return tokens;
}

absl::Status WorkloadResult::first_error() const {
  for (const RequestSample& sample : samples) {
    if (!sample.status.ok()) return sample.status;
  }
  return absl::OkStatus();
}

std::vector<double> WorkloadResult::All(double RequestSample::*time) const {
  std::vector<double> times;
  for (const RequestSample& sample : samples) {
    if (sample.status.ok()) times.push_back(sample.*time);
  }
  return times;
}

std::vector<double> WorkloadResult::inter_token() const {
  std::vector<double> times;
  for (const RequestSample& sample : samples) {
    if (!sample.status.ok()) continue;
    times.insert(times.end(), sample.inter_token.begin(), sample.inter_token.end());
  }
  return times;
}

v1::GenerateRequest MadeRequest(const PlannedRequest& planned, const RequestStyle& style,
                                int32_t seed) {
  v1::GenerateRequest request;
  std::minstd_rand random(static_cast<unsigned>(seed) + 1U);
  if (style.is_chat) {
    std::uniform_int_distribution<size_t> word(0, kWords.size() - 1);
    v1::ChatMessage* const message = request.mutable_chat()->add_messages();
    message->set_role("user");
    for (int32_t i = 0; i < planned.input_len; ++i) {
      absl::StrAppend(message->mutable_content(), i == 0 ? "" : " ", kWords[word(random)]);
    }
  } else {
    const int32_t most = std::min(kPlainTokens, style.vocab_size) - 1;
    std::uniform_int_distribution<int32_t> token(0, most);
    for (int32_t i = 0; i < planned.input_len; ++i) {
      request.mutable_token_ids()->add_ids(token(random));
    }
  }
  request.mutable_sampling()->set_temperature(0);
  request.mutable_stopping()->set_max_tokens(planned.output_len);
  request.mutable_stopping()->set_ignore_eos(style.ignore_eos);
  return request;
}

WorkloadResult RunWorkload(TextGenerator* generator, const LoadPlan& plan,
                           const RequestStyle& style, const WorkloadControl& control) {
  return WorkloadRun(generator, plan, style, control).Run();
}

}  // namespace tessera
