#include "server/commands/workload.h"

#include <algorithm>
#include <atomic>
#include <random>
#include <thread>

#include "absl/synchronization/mutex.h"
#include "kernels/core/monotonic_time.h"

namespace tessera {
namespace {

void AppendTo(std::vector<double>* all, const std::vector<double>& some) {
  all->insert(all->end(), some.begin(), some.end());
}

// Sends one request and returns its measurements.
WorkloadResult Measure(TextGenerator* generator, const v1::GenerateRequest& request) {
  WorkloadResult result;
  const absl::Time start = MonotonicNow();
  absl::Time last = start;
  int64_t tokens = 0;
  const absl::Status status = generator->Stream(
      request,
      [&](const v1::GenerateResponse& delta) {
        const absl::Time now = MonotonicNow();
        const int64_t fresh = delta.usage().completion_tokens() - tokens;
        if (fresh <= 0) return;
        std::vector<double>& times = tokens == 0 ? result.time_to_first_token : result.inter_token;
        const int64_t count = tokens == 0 ? 1 : fresh;
        for (int64_t i = 0; i < count; ++i) {
          times.push_back(absl::ToDoubleSeconds(now - last) / static_cast<double>(count));
        }
        tokens += fresh;
        last = now;
        result.prompt_tokens = delta.usage().prompt_tokens();
      },
      nullptr);
  result.output_tokens = tokens;
  if (status.ok()) {
    result.end_to_end.push_back(absl::ToDoubleSeconds(MonotonicNow() - start));
  } else {
    result.num_failed = 1;
    result.first_error = std::string(status.message());
  }
  return result;
}

void Join(const WorkloadResult& one, WorkloadResult* all) {
  AppendTo(&all->time_to_first_token, one.time_to_first_token);
  AppendTo(&all->inter_token, one.inter_token);
  AppendTo(&all->end_to_end, one.end_to_end);
  all->prompt_tokens += one.prompt_tokens;
  all->output_tokens += one.output_tokens;
  all->num_failed += one.num_failed;
  if (all->first_error.empty()) all->first_error = one.first_error;
}

}  // namespace

v1::GenerateRequest WorkloadRequest(const Workload& workload, int32_t index) {
  v1::GenerateRequest request;
  std::minstd_rand random(static_cast<unsigned>(index) + 1U);
  std::uniform_int_distribution<int32_t> token(0, std::min(kPlainTokens, workload.vocab_size) - 1);
  for (int32_t i = 0; i < workload.input_len; ++i) {
    request.mutable_token_ids()->add_ids(token(random));
  }
  request.mutable_sampling()->set_temperature(0);
  request.mutable_stopping()->set_max_tokens(workload.output_len);
  request.mutable_stopping()->set_ignore_eos(true);
  return request;
}

WorkloadResult RunWorkload(TextGenerator* generator, const Workload& workload) {
  WorkloadResult all;
  absl::Mutex mutex;
  std::atomic<int32_t> next{0};
  const absl::Time start = MonotonicNow();
  std::vector<std::thread> threads;
  for (int32_t i = 0; i < std::min(workload.concurrency, workload.num_requests); ++i) {
    threads.emplace_back([&] {
      while (true) {
        const int32_t index = next.fetch_add(1);
        if (index >= workload.num_requests) return;
        const WorkloadResult one = Measure(generator, WorkloadRequest(workload, index));
        absl::MutexLock lock(&mutex);
        Join(one, &all);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  all.seconds = absl::ToDoubleSeconds(MonotonicNow() - start);
  return all;
}

}  // namespace tessera
