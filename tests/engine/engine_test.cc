#include "engine/engine.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <limits>
#include <stdexcept>
#include <thread>

#include "absl/strings/cord.h"
#include "absl/time/clock.h"
#include "tests/engine/engine_fixture.h"

namespace tessera {
namespace {

using testing::HasSubstr;

class EngineTest : public EngineFixture {};

std::vector<int32_t> Prompt(int length, int first = 300) {
  std::vector<int32_t> prompt;
  for (int i = 0; i < length; ++i) prompt.push_back(first + i);
  return prompt;
}

TEST_F(EngineTest, OneRequestFromSubmitToDone) {
  StartEngine();
  const GenerateRequest request = Request(Prompt(20), 12, 5);
  const auto sink = Submit(request);
  EXPECT_TRUE(sink->Wait().ok());
  const ExpectedOutput expected = Expected(request);
  EXPECT_EQ(sink->tokens(), expected.tokens);
  EXPECT_EQ(sink->text(), NanoTokenizer()->Decode(expected.tokens, true));
  ASSERT_TRUE(sink->finish().has_value());
  EXPECT_EQ(sink->finish()->reason, expected.reason);
  EXPECT_EQ(sink->num_deltas(), expected.tokens.size());
  EXPECT_EQ(sink->info().usage.prompt_tokens, 20);
  EXPECT_EQ(sink->info().usage.completion_tokens, static_cast<int32_t>(expected.tokens.size()));
  EXPECT_LE(sink->info().timing.arrival, sink->info().timing.first_scheduled);
  EXPECT_LE(sink->info().timing.first_scheduled, sink->info().timing.first_token);
  EXPECT_LE(sink->info().timing.first_token, sink->info().timing.last_token);
  ExpectClean();
  EXPECT_EQ(engine_->stats().prompt_tokens, 20);
  EXPECT_EQ(engine_->stats().generation_tokens, static_cast<int64_t>(expected.tokens.size()));
}

// The devices have their next work before anybody has looked at what they did last.
TEST_F(EngineTest, TheNextStepBeginsBeforeTheResultsOfThisOne) {
  max_steps_under_way_ = 2;
  StartEngine();
  control_->Close();
  const GenerateRequest request = Request(Prompt(20), 8, 7);
  const auto sink = Submit(request);
  control_->WaitForSteps(2);
  EXPECT_EQ(sink->num_deltas(), 0);
  control_->PassOne();
  control_->WaitForSteps(3);
  control_->Open();
  EXPECT_TRUE(sink->Wait().ok());
  EXPECT_EQ(sink->tokens(), Expected(request).tokens);
  ExpectClean();
}

// The last token by length is foreseen, and no step is spent on the one behind it.
TEST_F(EngineTest, NoStepBeginsBehindTheLastTokenByLength) {
  max_steps_under_way_ = 2;
  StartEngine();
  EXPECT_TRUE(Submit(Request(Prompt(3), 4, 7))->Wait().ok());
  ExpectClean();
  EXPECT_EQ(engine_->stats().num_steps, 4);
}

// Whose deadline has passed is told so by the engine thread, as always.
TEST_F(EngineTest, WhoComesTooLateBeginsNothing) {
  StartEngine();
  for (int i = 0; i < 20; ++i) {
    GenerateRequest request = Request(Prompt(3), 2, 0);
    request.deadline = absl::Now() - absl::Seconds(1);
    EXPECT_EQ(Submit(request)->Wait().code(), absl::StatusCode::kDeadlineExceeded);
  }
  ExpectClean();
  EXPECT_EQ(engine_->stats().num_steps, 0);
}

TEST_F(EngineTest, EndsAtEosWithoutItsText) {
  StartEngine();
  const std::vector<int32_t> eos = NanoConfig().eos_token_ids;
  ASSERT_FALSE(eos.empty());
  GenerateRequest request = Request(Prompt(5), 50, 1);
  request.sampling.allowed_token_ids = {400, 401, 402, 403, eos[0]};
  const auto sink = Submit(request);
  EXPECT_TRUE(sink->Wait().ok());
  const ExpectedOutput expected = Expected(request);
  ASSERT_EQ(expected.reason, FinishReason::kStop);
  EXPECT_EQ(sink->tokens(), expected.tokens);
  EXPECT_EQ(sink->finish()->stop_token_id, eos[0]);
  std::vector<int32_t> shown = expected.tokens;
  shown.pop_back();
  EXPECT_EQ(sink->text(), NanoTokenizer()->Decode(shown, false));
}

TEST_F(EngineTest, ChoicesShareThePromptAndDrawTheirOwnTokens) {
  StartEngine();
  GenerateRequest request = Request(Prompt(41), 10, 70);
  request.n = 4;
  const auto sink = Submit(request);
  EXPECT_TRUE(sink->Wait().ok());
  int32_t completion = 0;
  for (int32_t choice = 0; choice < 4; ++choice) {
    EXPECT_EQ(sink->tokens(choice), Expected(request, choice).tokens) << choice;
    EXPECT_EQ(sink->choice_usage(choice).cached_tokens, choice == 0 ? 0 : 40);
    completion += sink->choice_usage(choice).completion_tokens;
  }
  EXPECT_NE(sink->tokens(0), sink->tokens(1));
  EXPECT_EQ(sink->info().usage.prompt_tokens, 41);
  EXPECT_EQ(sink->info().usage.completion_tokens, completion);
  ExpectClean();
}

TEST_F(EngineTest, RequestsWithoutSeedDiffer) {
  StartEngine();
  GenerateRequest request = Request(Prompt(5), 30, 0);
  request.sampling.seed.reset();
  const auto a = Submit(request);
  const auto b = Submit(request);
  EXPECT_TRUE(a->Wait().ok());
  EXPECT_TRUE(b->Wait().ok());
  EXPECT_NE(a->tokens(), b->tokens());
}

TEST_F(EngineTest, StopStringEndsTheChoiceAndIsNotShown) {
  StartEngine();
  GenerateRequest request = Request(Prompt(8), 40, 3);
  request.stopping.ignore_eos = true;
  const std::vector<int32_t> tokens = Expected(request).tokens;
  const std::string text = NanoTokenizer()->Decode(tokens, true);
  // Three whole tokens of the middle, so that the stop is completed somewhere on the way.
  const std::vector<int32_t> middle(tokens.begin() + 18, tokens.begin() + 21);
  const std::string stop = NanoTokenizer()->Decode(middle, true);
  ASSERT_FALSE(stop.empty());
  const size_t at = text.find(stop);
  if (at == std::string::npos) GTEST_SKIP() << "the middle is not whole characters";
  request.stopping.stop = {stop};
  const auto sink = Submit(request);
  EXPECT_TRUE(sink->Wait().ok());
  EXPECT_EQ(sink->text(), text.substr(0, at));
  EXPECT_EQ(sink->finish()->reason, FinishReason::kStop);
  EXPECT_EQ(sink->finish()->stop_string, stop);
  EXPECT_LT(sink->tokens().size(), tokens.size());
  ExpectClean();
}

TEST_F(EngineTest, LogprobsOfPromptAndOutput) {
  StartEngine();
  GenerateRequest request = Request(Prompt(50), 5, 9);
  request.sampling.logprobs = 2;
  request.sampling.prompt_logprobs = 1;
  for (int round = 0; round < 2; ++round) {  // the second round must not lose rows to the cache
    const auto sink = Submit(request);
    EXPECT_TRUE(sink->Wait().ok());
    const ExpectedOutput expected = Expected(request);
    const std::vector<TokenLogprobs> prompt = sink->prompt_logprobs();
    ASSERT_EQ(prompt.size(), 49U);
    for (size_t i = 0; i < prompt.size(); ++i) {
      EXPECT_EQ(prompt[i].token, request.prompt_ids[i + 1]);
      EXPECT_EQ(prompt[i].logprob, expected.prompt_logprobs[i]);
      EXPECT_EQ(prompt[i].top.size(), 1U);
    }
    ASSERT_EQ(sink->logprobs().size(), expected.tokens.size());
    EXPECT_EQ(sink->logprobs()[0].token, expected.tokens[0]);
    EXPECT_EQ(sink->logprobs()[0].top.size(), 2U);
  }
}

TEST_F(EngineTest, ThinkingBudgetClosesTheReasoning) {
  StartEngine();
  const auto start = NanoTokenizer()->TokenId("<think>");
  const auto end = NanoTokenizer()->TokenId("</think>");
  ASSERT_TRUE(start.has_value() && end.has_value());
  GenerateRequest request = Request(Prompt(6), 20, 4);
  request.prompt_ids.push_back(*start);
  request.stopping.ignore_eos = true;
  request.sampling.bad_words = {{*start}, {*end}};
  request.reasoning.parse = true;
  request.reasoning.max_thinking_tokens = 5;
  request.reasoning.close_token_ids = {*end};
  const auto sink = Submit(request);
  EXPECT_TRUE(sink->Wait().ok());
  EXPECT_EQ(sink->tokens().size(), 20U);
  EXPECT_EQ(sink->tokens()[5], *end);
  EXPECT_EQ(sink->info().usage.reasoning_tokens, 5);
  EXPECT_TRUE(sink->finish()->thinking_budget_enforced);
  EXPECT_THAT(sink->text(), testing::Not(HasSubstr("</think>")));
  ExpectClean();
  EXPECT_EQ(engine_->stats().reasoning_tokens, 5);
}

TEST_F(EngineTest, RefusesWhatCanNeverRun) {
  StartEngine();
  const auto refused = [&](const GenerateRequest& request) {
    return engine_->Submit(request, std::make_shared<RecordingSink>()).status().code();
  };
  const auto invalid = absl::StatusCode::kInvalidArgument;
  EXPECT_EQ(refused(Request({}, 1, 0)), invalid);
  EXPECT_EQ(refused(Request(Prompt(200), 1, 0)), invalid);
  EXPECT_EQ(refused(Request(Prompt(199), 2, 0)), invalid);
  EXPECT_EQ(refused(Request(Prompt(1), std::numeric_limits<int32_t>::max(), 0)), invalid);
  EXPECT_EQ(refused(Request(Prompt(1), 0, 0)), invalid);
  EXPECT_EQ(refused(Request(Prompt(1), -1, 0)), invalid);
  GenerateRequest none = Request(Prompt(1), 1, 0);
  none.n = 0;
  EXPECT_EQ(refused(none), invalid);
  none.n = std::numeric_limits<int32_t>::max();
  EXPECT_EQ(refused(none), invalid);
  // Ids of a tokenizer that is not the model's.
  for (const int32_t foreign : {-1, NanoConfig().vocab_size, 2'000'000}) {
    EXPECT_EQ(refused(Request({300, foreign}, 1, 0)), invalid);
    GenerateRequest request = Request(Prompt(1), 1, 0);
    request.reasoning.close_token_ids = {foreign};
    EXPECT_EQ(refused(request), invalid);
    request = Request(Prompt(1), 1, 0);
    request.sampling.bad_words = {{300, foreign}};
    EXPECT_EQ(refused(request), invalid);
    request = Request(Prompt(1), 1, 0);
    request.sampling.logit_bias = {{foreign, 1.0F}};
    EXPECT_EQ(refused(request), invalid);
    request = Request(Prompt(1), 1, 0);
    request.sampling.allowed_token_ids = {foreign};
    EXPECT_EQ(refused(request), invalid);
  }
  EXPECT_TRUE(Submit(Request(Prompt(199), 1, 0))->Wait().ok());
  ExpectClean();
}

// What such lists shape is part of every step plan.
TEST_F(EngineTest, ListsAreAsLongAsAPlanCanHold) {
  StartEngine();
  const auto status = [&](const GenerateRequest& request) {
    return engine_->Submit(request, std::make_shared<RecordingSink>()).status().code();
  };
  constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
  GenerateRequest full = Request(Prompt(3), 3, 0);
  for (int32_t i = 0; i < kMaxLogitBias; ++i) full.sampling.logit_bias.emplace_back(i % 500, 1.0F);
  full.sampling.bad_words.assign(kMaxBadWords, {300});
  full.stopping.stop_token_ids.assign(kMaxStopIds, 301);
  EXPECT_TRUE(Submit(full)->Wait().ok());
  GenerateRequest request = full;
  request.sampling.logit_bias.emplace_back(1, 1.0F);
  EXPECT_EQ(status(request), kInvalid);
  request = full;
  request.sampling.bad_words.push_back({300});
  EXPECT_EQ(status(request), kInvalid);
  request = full;
  request.stopping.stop_token_ids.push_back(301);
  EXPECT_EQ(status(request), kInvalid);
}

TEST_F(EngineTest, AModelWithTooManyEndsDoesNotStart) {
  options_.eos_token_ids.assign(kMaxEosIds + 1, 5);
  const auto engine =
      Engine::Create(options_, NanoConfig(), NanoTokenizer(),
                     std::make_unique<FakeExecutor>(
                         FakeExecutorOptions{.vocab_size = NanoConfig().vocab_size}, control_),
                     std::move(hooks_));
  EXPECT_EQ(engine.status().code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(EngineTest, NothingToDrawIsTheRequestsFault) {
  StartEngine();
  GenerateRequest request = Request(Prompt(3), 5, 0);
  request.sampling.allowed_token_ids = {400};
  request.sampling.bad_words = {{400}};
  const auto other = Submit(Request(Prompt(3), 5, 1));
  EXPECT_EQ(Submit(request)->Wait().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_TRUE(other->Wait().ok());
  ExpectClean();
}

TEST_F(EngineTest, FullQueueRefusesAndRecovers) {
  options_.scheduler.max_queued_requests = 2;
  options_.scheduler.max_num_seqs = 1;
  control_->Close();
  StartEngine();
  const auto running = Submit(Request(Prompt(3), 2, 0));
  control_->WaitForSteps(1);  // has left the queue
  const auto first = Submit(Request(Prompt(3), 2, 0));
  const auto second = Submit(Request(Prompt(3), 2, 0));
  const auto third = engine_->Submit(Request(Prompt(3), 2, 0), std::make_shared<RecordingSink>());
  EXPECT_EQ(third.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(engine_->stats().num_waiting_tokens, 6);
  control_->Open();
  EXPECT_TRUE(running->Wait().ok());
  EXPECT_TRUE(first->Wait().ok());
  EXPECT_TRUE(second->Wait().ok());
  EXPECT_TRUE(Submit(Request(Prompt(3), 2, 0))->Wait().ok());
  ExpectClean();
}

TEST_F(EngineTest, AFullQueueShedsTheLeastImportant) {
  options_.scheduler.max_queued_requests = 2;
  options_.scheduler.max_num_seqs = 1;
  control_->Close();
  StartEngine();
  const auto request = [](int32_t priority) {
    GenerateRequest made = Request(Prompt(3), 2, 0);
    made.priority = priority;
    return made;
  };
  const auto running = Submit(request(9));
  control_->WaitForSteps(1);  // has left the queue
  const auto important = Submit(request(1));
  const auto shed = Submit(request(2));
  EXPECT_EQ(engine_->NumWaitingBefore(1, {}), 1);
  EXPECT_EQ(engine_->NumWaitingBefore(2, {}), 2);
  const auto more_important = Submit(request(0));
  EXPECT_EQ(engine_->NumWaitingBefore(2, {}), 2);
  EXPECT_EQ(engine_->Submit(request(2), std::make_shared<RecordingSink>()).status().code(),
            absl::StatusCode::kResourceExhausted);
  control_->Open();
  EXPECT_EQ(shed->Wait().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_TRUE(running->Wait().ok());
  EXPECT_TRUE(important->Wait().ok());
  EXPECT_TRUE(more_important->Wait().ok());
  ExpectClean();
}

TEST_F(EngineTest, CancelInFlightEndsWithinTheStep) {
  control_->Close();
  StartEngine();
  RequestId id{};
  const auto sink = Submit(Request(Prompt(30), 100, 2), &id);
  control_->WaitForSteps(1);
  engine_->Cancel(id, absl::AbortedError("slow reader"));
  engine_->Cancel(id, absl::CancelledError("again"));
  control_->PassOne();
  EXPECT_EQ(sink->Wait().code(), absl::StatusCode::kAborted);
  ExpectClean();
  EXPECT_EQ(sink->num_done(), 1);
  engine_->Cancel(id);  // long gone
  control_->Open();
  EXPECT_TRUE(Submit(Request(Prompt(3), 2, 0))->Wait().ok());
  EXPECT_EQ(sink->num_done(), 1);
}

TEST_F(EngineTest, CancelOfAllChoicesBeforeTheySplit) {
  control_->Close();
  StartEngine();
  GenerateRequest request = Request(Prompt(30), 20, 2);
  request.n = 3;
  RequestId id{};
  const auto sink = Submit(request, &id);
  control_->WaitForSteps(1);
  engine_->Cancel(id);
  control_->Open();
  EXPECT_EQ(sink->Wait().code(), absl::StatusCode::kCancelled);
  ExpectClean();
}

TEST_F(EngineTest, DeadlineEndsWaitingAndRunningRequests) {
  options_.scheduler.max_num_seqs = 1;
  control_->Close();
  StartEngine();
  GenerateRequest running = Request(Prompt(3), 100, 0);
  running.deadline = absl::Now() + absl::Milliseconds(1500);
  const auto first = Submit(running);
  control_->WaitForSteps(1);
  const auto second = Submit(running);
  absl::SleepFor(running.deadline - absl::Now() + absl::Milliseconds(10));
  control_->PassOne();
  EXPECT_EQ(first->Wait().code(), absl::StatusCode::kDeadlineExceeded);
  const absl::Status waiting = second->Wait();
  EXPECT_EQ(waiting.code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_THAT(waiting.message(), HasSubstr("before the request started"));
  control_->Open();
  ExpectClean();
}

class ThrowingSink final : public RecordingSink {
 public:
  void OnTokens(TokenDelta) override { throw std::runtime_error("no room"); }
};

TEST_F(EngineTest, OneBadRequestFailsAlone) {
  StartEngine();
  const auto bad = std::make_shared<ThrowingSink>();
  const GenerateRequest request = Request(Prompt(9), 20, 6);
  const auto good = Submit(request);
  ASSERT_TRUE(engine_->Submit(request, bad).ok());
  EXPECT_EQ(bad->Wait().code(), absl::StatusCode::kInternal);
  EXPECT_TRUE(good->Wait().ok());
  EXPECT_EQ(good->tokens(), Expected(request).tokens);
  ExpectClean();
}

TEST_F(EngineTest, BatchWaitDelaysButLosesNothing) {
  options_.scheduler.batch_wait = absl::Milliseconds(20);
  StartEngine();
  const absl::Time start = absl::Now();
  const auto sink = Submit(Request(Prompt(3), 3, 0));
  EXPECT_TRUE(sink->Wait().ok());
  EXPECT_GE(absl::Now() - start, absl::Milliseconds(15));
  ExpectClean();
}

TEST_F(EngineTest, DrainLetsRunningRequestsFinish) {
  control_->Close();
  StartEngine();
  const auto sink = Submit(Request(Prompt(9), 10, 6));
  control_->WaitForSteps(1);
  std::thread opener([&] { control_->Open(); });
  EXPECT_TRUE(engine_->Drain(absl::Now() + absl::Seconds(30)).ok());
  opener.join();
  EXPECT_TRUE(sink->Wait().ok());
  const auto late = engine_->Submit(Request(Prompt(1), 1, 0), std::make_shared<RecordingSink>());
  EXPECT_EQ(late.status().code(), absl::StatusCode::kUnavailable);
}

TEST_F(EngineTest, DrainEndsTheRestAtTheDeadline) {
  options_.model.max_model_len = 0;
  StartEngine();
  GenerateRequest endless = Request(Prompt(9), 1000, 6);
  endless.stopping.ignore_eos = true;
  control_->Close();
  const auto sink = Submit(endless);
  control_->WaitForSteps(1);
  std::thread opener([&] {
    absl::SleepFor(absl::Milliseconds(30));
    control_->PassOne();
  });
  EXPECT_EQ(engine_->Drain(absl::Now() + absl::Milliseconds(10)).code(),
            absl::StatusCode::kDeadlineExceeded);
  opener.join();
  EXPECT_EQ(sink->Wait().code(), absl::StatusCode::kUnavailable);
}

// An engine whose streams have ended by its death; destroys it.
class DyingEngineTest : public EngineTest {
 protected:
  void ExpectDead(const std::vector<std::shared_ptr<RecordingSink>>& sinks) {
    EXPECT_TRUE(engine_->Drain(absl::Now() + absl::Seconds(30)).ok());
    const auto late = engine_->Submit(Request(Prompt(1), 1, 0), std::make_shared<RecordingSink>());
    EXPECT_EQ(late.status().code(), absl::StatusCode::kUnavailable);
    EXPECT_FALSE(engine_->stats().alive);
    engine_.reset();
    for (const auto& sink : sinks) EXPECT_EQ(sink->num_done(), 1);
  }
};

TEST_F(DyingEngineTest, DeathEndsEveryStreamAndIsReportedOnce) {
  std::atomic<int> deaths = 0;
  hooks_.on_dead = [&](const absl::Status& status) {
    EXPECT_THAT(status.message(), HasSubstr("rank 1 is gone"));
    ++deaths;
  };
  options_.scheduler.max_num_seqs = 2;
  control_->Close();
  StartEngine();
  std::vector<std::shared_ptr<RecordingSink>> sinks;
  for (int i = 0; i < 5; ++i) sinks.push_back(Submit(Request(Prompt(5), 50, i)));
  control_->WaitForSteps(1);
  control_->FailNext(absl::UnavailableError("rank 1 is gone"));
  for (const auto& sink : sinks) {
    EXPECT_EQ(sink->Wait().code(), absl::StatusCode::kUnavailable);
  }
  ExpectDead(sinks);
  EXPECT_EQ(deaths, 1);
}

TEST_F(DyingEngineTest, AStepThatHangsOnTheEngineThreadIsDeathToo) {
  std::atomic<int> deaths = 0;
  hooks_.on_dead = [&](const absl::Status& status) {
    EXPECT_THAT(status.message(), HasSubstr("step 2 has not finished within 50ms"));
    ++deaths;
  };
  options_.scheduler.max_num_seqs = 2;
  options_.step_timeout = absl::Milliseconds(50);
  StartEngine();
  GenerateRequest endless = Request(Prompt(5), 150, 1);
  endless.stopping.ignore_eos = true;
  control_->Close();
  std::vector<std::shared_ptr<RecordingSink>> sinks;
  for (int i = 0; i < 5; ++i) sinks.push_back(Submit(endless));
  control_->PassOne();
  control_->PassOne();
  for (const auto& sink : sinks) {
    const absl::Status end = sink->Wait();
    EXPECT_EQ(end.code(), absl::StatusCode::kUnavailable);
    EXPECT_THAT(end.message(), HasSubstr("a rank hangs"));
  }
  ExpectDead(sinks);
  EXPECT_EQ(deaths, 1);
}

// A dead engine takes nothing in: clients that go on cancelling must not fill its memory.
TEST_F(DyingEngineTest, CancelsAfterDeathAreNotKept) {
  control_->Close();
  StartEngine();
  RequestId id{};
  const auto sink = Submit(Request(Prompt(5), 50, 0), &id);
  control_->WaitForSteps(1);
  control_->FailNext(absl::UnavailableError("rank 1 is gone"));
  EXPECT_EQ(sink->Wait().code(), absl::StatusCode::kUnavailable);
  EXPECT_TRUE(engine_->Drain(absl::Now() + absl::Seconds(30)).ok());
  constexpr int kCancels = 100;
  int forgotten = 0;
  for (int i = 0; i < kCancels; ++i) {
    absl::Status status = absl::CancelledError("cancelled");
    status.SetPayload("test",
                      absl::MakeCordFromExternal("x", [&](absl::string_view) { ++forgotten; }));
    engine_->Cancel(id, std::move(status));
  }
  EXPECT_EQ(forgotten, kCancels);
  ExpectDead({sink});
}

TEST_F(EngineTest, AResultOfTheWrongShapeIsDeathNotACrash) {
  std::atomic<int> deaths = 0;
  hooks_.on_dead = [&](const absl::Status&) { ++deaths; };
  StartEngine();
  control_->BreakNextShape();
  EXPECT_EQ(Submit(Request(Prompt(5), 50, 0))->Wait().code(), absl::StatusCode::kUnavailable);
  engine_.reset();
  EXPECT_EQ(deaths, 1);
}

TEST_F(EngineTest, DestructionEndsWhatRuns) {
  options_.model.max_model_len = 0;
  StartEngine();
  GenerateRequest endless = Request(Prompt(9), 1000, 6);
  endless.stopping.ignore_eos = true;
  control_->Close();  // or it ends by itself before this thread goes on
  const auto sink = Submit(endless);
  for (int i = 0; i < 4; ++i) control_->PassOne();
  sink->WaitForDeltas(3);
  std::atomic<bool> destroyed = false;
  std::thread destroyer([&] {
    engine_.reset();
    destroyed = true;
  });
  while (!destroyed) {
    control_->PassOne();
    absl::SleepFor(absl::Milliseconds(1));
  }
  destroyer.join();
  EXPECT_EQ(sink->Wait().code(), absl::StatusCode::kUnavailable);
}

TEST_F(EngineTest, StepHookSeesEveryToken) {
  std::atomic<int64_t> prefill = 0;
  std::atomic<int64_t> decode = 0;
  std::atomic<int64_t> rests = 0;
  hooks_.on_step = [&](const StepEvent& event) {
    rests += event.after_rest ? 1 : 0;
    prefill += event.prefill_tokens;
    decode += event.decode_tokens;
  };
  StartEngine();
  GenerateRequest request = Request(Prompt(10), 4, 0);
  request.stopping.ignore_eos = true;
  EXPECT_TRUE(Submit(request)->Wait().ok());
  EXPECT_EQ(prefill, 10);
  EXPECT_EQ(decode, 3);
  EXPECT_EQ(rests, 1);  // before the first step
}

TEST_F(EngineTest, TooSmallACacheIsRefusedWithAReason) {
  options_.kv_cache_bytes = 10 * 1024;
  auto engine =
      Engine::Create(options_, NanoConfig(), NanoTokenizer(),
                     std::make_unique<FakeExecutor>(
                         FakeExecutorOptions{.vocab_size = NanoConfig().vocab_size}, control_),
                     {});
  EXPECT_EQ(engine.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(engine.status().message(), HasSubstr("--max-model-len 40 would fit"));
}

}  // namespace
}  // namespace tessera
