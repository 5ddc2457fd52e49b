// Thousands of requests from several threads: cancels, deadlines and choices at random moments.
#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <thread>
#include <vector>

#include "absl/time/clock.h"
#include "tests/engine/engine_fixture.h"

namespace tessera {
namespace {

struct Sent {
  GenerateRequest request;
  std::shared_ptr<RecordingSink> sink;
  bool may_fail = false;  // cancelled or with a deadline
};

// At every number of steps that may be under way.
class EngineStressTest : public EngineFixture, public testing::WithParamInterface<int32_t> {
 protected:
  EngineStressTest() { max_steps_under_way_ = GetParam(); }

  static GenerateRequest RandomRequest(std::mt19937_64* random) {
    std::vector<int32_t> prompt;
    const auto family = static_cast<int32_t>((*random)() % 5);
    const auto length = 1 + (*random)() % 60;
    for (uint64_t i = 0; i < length; ++i) {
      prompt.push_back(300 + family * 100 + static_cast<int32_t>(i));
    }
    if ((*random)() % 2 == 0) prompt.back() = static_cast<int32_t>((*random)() % 250);
    GenerateRequest request =
        Request(prompt, 1 + static_cast<int32_t>((*random)() % 24), (*random)());
    request.n = (*random)() % 8 == 0 ? 3 : 1;
    if ((*random)() % 5 == 0) request.sampling.frequency_penalty = 0.5F;
    if ((*random)() % 10 == 0) request.sampling.prompt_logprobs = 0;
    request.priority = static_cast<int32_t>((*random)() % 3);
    return request;
  }

  // One client: submits, sometimes cancels at once, later or by deadline. `patient`: one request
  // after the other, with pauses in which the engine falls asleep.
  void RunClient(uint64_t seed, int count, bool patient, std::vector<Sent>* sent) {
    std::mt19937_64 random(seed);
    for (int i = 0; i < count; ++i) {
      Sent one{.request = RandomRequest(&random), .sink = std::make_shared<RecordingSink>()};
      GenerateRequest request = one.request;
      const auto fate = random() % 6;
      if (fate == 0) request.deadline = absl::Now() + absl::Microseconds(random() % 20000);
      const auto id = engine_->Submit(std::move(request), one.sink);
      if (!id.ok()) continue;  // expired queue space: checked by the totals
      one.may_fail = fate <= 2;
      if (fate == 1) engine_->Cancel(*id);
      if (fate == 2) {
        one.sink->WaitForDeltas(1 + random() % 10);
        engine_->Cancel(*id);
      }
      if (patient) {
        one.sink->Wait().IgnoreError();
        absl::SleepFor(absl::Microseconds(random() % 300));
      }
      sent->push_back(std::move(one));
    }
  }

  void Check(const std::vector<Sent>& sent) {
    int completed = 0;
    for (const Sent& one : sent) {
      const absl::Status status = one.sink->Wait();
      ASSERT_EQ(one.sink->num_done(), 1);
      ASSERT_TRUE(status.ok() || one.may_fail) << status;
      for (int32_t choice = 0; choice < one.request.n; ++choice) {
        const std::vector<int32_t> expected = Expected(one.request, choice).tokens;
        const std::vector<int32_t> tokens = one.sink->tokens(choice);
        if (status.ok()) {
          ASSERT_EQ(tokens, expected);
        } else {
          ASSERT_LE(tokens.size(), expected.size());
          ASSERT_TRUE(std::equal(tokens.begin(), tokens.end(), expected.begin()));
        }
      }
      if (status.ok()) ++completed;
    }
    EXPECT_GT(completed, static_cast<int>(sent.size()) / 3);
  }

  void RunClients(int clients, int requests_each, bool patient) {
    std::vector<std::vector<Sent>> sent(clients);
    std::vector<std::thread> threads;
    for (int c = 0; c < clients; ++c) {
      threads.emplace_back([&, c] { RunClient(100 + c, requests_each, patient, &sent[c]); });
    }
    for (std::thread& thread : threads) thread.join();
    for (const auto& one : sent) Check(one);
    ExpectClean();
    EXPECT_GT(engine_->stats().prefix_cache_hits, 0);
  }

  void RunLoad(int32_t num_groups, int clients, int requests_each) {
    options_.kv_cache_bytes = 60 * 1024;  // tight: preemptions happen
    StartEngine(num_groups);
    RunClients(clients, requests_each, /*patient=*/false);
    EXPECT_GT(engine_->stats().num_preemptions, 0);
  }
};

TEST_P(EngineStressTest, OneGroup) { RunLoad(1, 4, 500); }

TEST_P(EngineStressTest, TwoGroups) { RunLoad(2, 4, 250); }

TEST_P(EngineStressTest, ManyFindTheEngineAsleep) {
  StartEngine();
  RunClients(1, 500, /*patient=*/true);
  RunClients(3, 500, /*patient=*/true);
}

TEST_P(EngineStressTest, ManyFindTheEngineWaitingForABatch) {
  options_.scheduler.batch_wait = absl::Microseconds(300);
  StartEngine(2);
  RunClients(2, 300, /*patient=*/true);
}

TEST_P(EngineStressTest, DestructionUnderLoad) {
  for (int round = 0; round < 20; ++round) {
    StartEngine();
    std::vector<std::shared_ptr<RecordingSink>> sinks;
    std::mt19937_64 random(round);
    for (int i = 0; i < 30; ++i) sinks.push_back(Submit(RandomRequest(&random)));
    engine_.reset();
    for (const auto& sink : sinks) {
      sink->Wait().IgnoreError();
      ASSERT_EQ(sink->num_done(), 1);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Depths, EngineStressTest, testing::Values(1, 2));

}  // namespace
}  // namespace tessera
