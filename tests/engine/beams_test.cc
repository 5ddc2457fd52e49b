// Beam searches in the engine, over a model whose tokens tell when a block is not what it should
// be, against a naive search.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <random>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tests/engine/engine_fixture.h"
#include "tests/engine/naive_beams.h"

namespace tessera {
namespace {

using testing::HasSubstr;

class BeamsTest : public EngineFixture {
 protected:
  int32_t Below(int32_t n) { return static_cast<int32_t>(random_() % n); }

  // Few tokens are possible, so that many sums are equal.
  GenerateRequest RandomSearch() {
    GenerateRequest request;
    for (int32_t i = 1 + Below(14); i > 0; --i) request.prompt_ids.push_back(5 + Below(3));
    request.beams.width = 2 + Below(5);
    request.n = 1 + Below(request.beams.width);
    constexpr double kPenalties[] = {-1.0, 0.0, 0.6, 1.0, 2.0};
    request.beams.length_penalty = kPenalties[Below(5)];
    request.beams.early_stopping = static_cast<BeamEarlyStopping>(Below(3));
    request.stopping.max_tokens = 1 + Below(14);
    request.stopping.min_tokens = Below(3) == 0 ? Below(5) : 0;
    request.stopping.ignore_eos = true;
    for (int32_t i = Below(4); i > 0; --i)
      request.stopping.stop_token_ids.push_back(100 + Below(9));
    for (int32_t id = 100; id < 107 + Below(9); ++id) {
      request.sampling.allowed_token_ids.push_back(id);
    }
    if (Below(2) == 0) request.sampling.logprobs = Below(3);
    request.use_prefix_cache = Below(4) > 0;
    return request;
  }

  static std::vector<NaiveText> Naive(const GenerateRequest& request) {
    std::vector<int32_t> eos = request.stopping.stop_token_ids;
    std::sort(eos.begin(), eos.end());
    eos.erase(std::unique(eos.begin(), eos.end()), eos.end());
    return SearchNaively({.beams = request.beams,
                          .num_texts = request.n,
                          .max_tokens = *request.stopping.max_tokens,
                          .min_tokens = request.stopping.min_tokens,
                          .eos = std::move(eos),
                          .next = [&](const std::vector<int32_t>& output) {
                            uint64_t context = 0;
                            for (int32_t id : request.prompt_ids) {
                              context = ExtendContext(context, id);
                            }
                            for (int32_t id : output) context = ExtendContext(context, id);
                            std::vector<TokenAlternative> next;
                            for (int32_t id : request.sampling.allowed_token_ids) {
                              next.push_back({id, FakeLogprob(context, id)});
                            }
                            return next;
                          }});
  }

  static void ExpectNaive(const GenerateRequest& request, const RecordingSink& sink) {
    const std::vector<NaiveText> texts = Naive(request);
    int64_t tokens = 0;
    for (int32_t i = 0; i < request.n; ++i) {
      if (i >= static_cast<int32_t>(texts.size())) {
        EXPECT_FALSE(sink.finish(i).has_value()) << "no such text";
        continue;
      }
      EXPECT_EQ(sink.tokens(i), texts[i].tokens) << "choice " << i;
      ASSERT_TRUE(sink.finish(i).has_value());
      EXPECT_EQ(sink.finish(i)->beam_score, texts[i].score);
      EXPECT_EQ(sink.finish(i)->reason == FinishReason::kLength, texts[i].by_length);
      tokens += std::ssize(texts[i].tokens);
    }
    EXPECT_EQ(sink.info().usage.completion_tokens, tokens);
    EXPECT_EQ(sink.info().usage.prompt_tokens, std::ssize(request.prompt_ids));
  }

  // Searches among ordinary requests, some of which are given up.
  void RunCrowd(int32_t searches) {
    std::vector<std::pair<GenerateRequest, std::shared_ptr<RecordingSink>>> asked;
    std::vector<std::shared_ptr<RecordingSink>> cancelled;
    for (int32_t i = 0; i < searches; ++i) {
      asked.emplace_back(RandomSearch(), nullptr);
      asked.back().second = Submit(asked.back().first);
      if (Below(3) == 0) {
        const GenerateRequest plain = Request({5, 6, 7, 8, 9}, 1 + Below(20), i);
        asked.emplace_back(plain, Submit(plain));
      }
      if (Below(5) > 0) continue;
      RequestId id{};
      cancelled.push_back(Submit(RandomSearch(), &id));
      engine_->Cancel(id);
    }
    for (size_t i = 0; i < asked.size(); ++i) {
      SCOPED_TRACE(absl::StrCat("request ", i));
      const auto& [request, sink] = asked[i];
      const absl::Status status = sink->Wait();
      ASSERT_TRUE(status.ok()) << status;
      if (request.beams.search()) {
        ExpectNaive(request, *sink);
      } else {
        EXPECT_EQ(sink->tokens(), Expected(request).tokens);
      }
    }
    for (const auto& sink : cancelled) sink->Wait().IgnoreError();
    ExpectClean();
  }

  std::mt19937 random_{0};
};

TEST_F(BeamsTest, EqualTheNaiveSearch) {
  StartEngine();
  for (uint32_t seed = 0; seed < 300; ++seed) {
    SCOPED_TRACE(absl::StrCat("seed ", seed));
    random_.seed(seed);
    const GenerateRequest request = RandomSearch();
    const auto sink = Submit(request);
    ASSERT_TRUE(sink->Wait().ok());
    ExpectNaive(request, *sink);
    if (HasFailure()) return;
  }
  ExpectClean();
  EXPECT_GT(engine_->stats().prefix_cache_hits, 0);
}

// Also with two steps under way, several groups, and blocks and seats for less than all.
TEST_F(BeamsTest, EqualTheNaiveSearchInACrowd) {
  int64_t preemptions = 0;
  for (uint32_t seed = 0; seed < 24; ++seed) {
    SCOPED_TRACE(absl::StrCat("seed ", seed));
    random_.seed(seed);
    max_steps_under_way_ = 1 + Below(2);
    options_.scheduler.max_num_seqs = 6 + Below(4);
    options_.scheduler.enable_prefix_cache = Below(3) > 0;
    options_.kv_cache_bytes = (50 + Below(60)) * 1024;
    StartEngine(1 + Below(2));
    RunCrowd(12);
    preemptions += engine_->stats().num_preemptions;
    engine_.reset();
    if (HasFailure()) return;
  }
  EXPECT_GT(preemptions, 0);
}

TEST_F(BeamsTest, ListWhatEachBeamCouldGoOnWith) {
  StartEngine();
  random_.seed(3);
  GenerateRequest request = RandomSearch();
  request.sampling.logprobs = 2;
  request.sampling.prompt_logprobs = 0;
  request.beams.length_penalty = 0;  // the score is the sum
  request.n = 1;
  const auto sink = Submit(request);
  ASSERT_TRUE(sink->Wait().ok());
  const std::vector<TokenLogprobs> logprobs = sink->logprobs();
  ASSERT_EQ(logprobs.size(), sink->tokens().size());
  double sum = 0;
  for (size_t i = 0; i < logprobs.size(); ++i) {
    EXPECT_EQ(logprobs[i].token, sink->tokens()[i]);
    ASSERT_EQ(logprobs[i].top.size(), 2U);
    EXPECT_GE(logprobs[i].top[0].logprob, logprobs[i].top[1].logprob);
    if (logprobs[i].rank <= 2) {
      EXPECT_EQ(logprobs[i].top[logprobs[i].rank - 1].token, logprobs[i].token);
    }
    sum += static_cast<double>(logprobs[i].logprob);
  }
  EXPECT_EQ(sum, sink->finish()->beam_score);
  EXPECT_EQ(sink->prompt_logprobs().size(), request.prompt_ids.size() - 1);
  EXPECT_EQ(sink->num_deltas(), 1U) << "all at the end";
}

TEST_F(BeamsTest, AForcedTokenIsTheOnlyContinuation) {
  StartEngine();
  GenerateRequest request = Request({5, 6, 7}, 12, 0);
  const auto think = NanoTokenizer()->TokenId("<think>");
  const auto end = NanoTokenizer()->TokenId("</think>");
  ASSERT_TRUE(think.has_value() && end.has_value());
  request.prompt_ids.push_back(*think);
  request.stopping.ignore_eos = true;
  request.reasoning.parse = true;
  request.reasoning.max_thinking_tokens = 3;
  request.reasoning.close_token_ids = {*end};
  for (int32_t id = 100; id < 120; ++id) request.sampling.allowed_token_ids.push_back(id);
  request.beams.width = request.n = 3;
  const auto sink = Submit(request);
  ASSERT_TRUE(sink->Wait().ok());
  for (int32_t i = 0; i < 3; ++i) {
    EXPECT_EQ(sink->tokens(i)[3], *end);
    EXPECT_EQ(sink->choice_usage(i).reasoning_tokens, 3);
    EXPECT_TRUE(sink->finish(i)->thinking_budget_enforced);
  }
}

TEST_F(BeamsTest, RefusesWhatCannotRun) {
  StartEngine();
  const auto refusal = [&](const std::function<void(GenerateRequest*)>& change) {
    GenerateRequest request = Request({5, 6, 7}, 8, 0);
    request.beams.width = 4;
    change(&request);
    const auto id = engine_->Submit(request, std::make_shared<RecordingSink>());
    EXPECT_EQ(id.status().code(), absl::StatusCode::kInvalidArgument);
    return std::string(id.status().message());
  };
  EXPECT_THAT(refusal([](GenerateRequest* r) { r->n = 5; }), HasSubstr("a beam per choice"));
  EXPECT_THAT(refusal([](GenerateRequest* r) { r->beams.width = 17; }), HasSubstr("at most 16"));
  EXPECT_THAT(refusal([](GenerateRequest* r) { r->beams.width = 9; }),
              HasSubstr("runs 8 sequences at once"));
  EXPECT_THAT(refusal([](GenerateRequest* r) { r->stopping.stop = {"x"}; }),
              HasSubstr("stop strings"));
  EXPECT_THAT(refusal([](GenerateRequest* r) { r->sampling.presence_penalty = 1; }),
              HasSubstr("penalties"));
  engine_.reset();
  options_.kv_cache_bytes = 60 * 1024;
  StartEngine();
  EXPECT_THAT(refusal([](GenerateRequest* r) { r->stopping.max_tokens = 60; }),
              HasSubstr("room for 4 beams of 56 tokens"));
  // Without a limit of its own a search has the one that fits.
  GenerateRequest request = Request({5, 6, 7}, 8, 0);
  request.beams.width = 4;
  request.stopping.ignore_eos = true;
  for (const std::optional<int32_t> limit : {std::optional<int32_t>(), {197}}) {
    request.stopping.max_tokens = limit;
    const auto sink = Submit(request);
    ASSERT_TRUE(sink->Wait().ok());
    EXPECT_EQ(sink->tokens().size(), 53U);
  }
}

}  // namespace
}  // namespace tessera
