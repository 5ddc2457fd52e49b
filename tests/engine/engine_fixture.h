// An engine over the fake executor.
#ifndef TESSERA_TESTS_ENGINE_ENGINE_FIXTURE_H_
#define TESSERA_TESTS_ENGINE_ENGINE_FIXTURE_H_

#include <gtest/gtest.h>

#include <memory>
#include <utility>
#include <vector>

#include "engine/engine.h"
#include "tests/engine/fake_executor.h"
#include "tests/engine/scheduler/expected_tokens.h"

namespace tessera {

class EngineFixture : public testing::Test {
 protected:
  EngineFixture() {
    options_.scheduler.block_size = 4;
    options_.scheduler.max_num_seqs = 8;
    options_.scheduler.max_num_batched_tokens = 64;
    options_.scheduler.max_prefill_chunk = 16;
    options_.model.max_model_len = 200;
    options_.kv_cache_bytes = 400 * 1024;  // 400 blocks
  }

  void StartEngine(int32_t num_groups = 1) {
    auto executor = std::make_unique<FakeExecutor>(
        FakeExecutorOptions{.num_groups = num_groups,
                            .max_steps_under_way = max_steps_under_way_,
                            .block_size = options_.scheduler.block_size,
                            .vocab_size = NanoConfig().vocab_size},
        control_);
    auto engine = Engine::Create(options_, NanoConfig(), NanoTokenizer(), std::move(executor),
                                 std::move(hooks_));
    ASSERT_TRUE(engine.ok()) << engine.status();
    engine_ = *std::move(engine);
  }

  static GenerateRequest Request(std::vector<int32_t> prompt, int32_t max_tokens, uint64_t seed) {
    GenerateRequest request;
    request.prompt_ids = std::move(prompt);
    request.stopping.max_tokens = max_tokens;
    request.sampling.seed = seed;
    return request;
  }

  ExpectedOutput Expected(const GenerateRequest& request, int32_t choice = 0) const {
    std::vector<int32_t> stops = request.stopping.stop_token_ids;
    if (!request.stopping.ignore_eos) {
      const std::vector<int32_t>& eos = NanoConfig().eos_token_ids;
      stops.insert(stops.end(), eos.begin(), eos.end());
    }
    return ExpectedTokens(request, {.seed = request.sampling.seed.value() + choice,
                                    .stop_ids = stops,
                                    .max_model_len = options_.model.max_model_len,
                                    .vocab_size = NanoConfig().vocab_size});
  }

  std::shared_ptr<RecordingSink> Submit(const GenerateRequest& request, RequestId* id = nullptr) {
    auto sink = std::make_shared<RecordingSink>();
    const auto submitted = engine_->Submit(request, sink);
    EXPECT_TRUE(submitted.ok()) << submitted.status();
    if (id != nullptr && submitted.ok()) *id = *submitted;
    return sink;
  }

  // Every block is back and nobody runs or waits. Blocks of the last step come back with its end.
  void ExpectClean() {
    EngineStats stats;
    for (int i = 0; i < 2000; ++i) {
      stats = engine_->stats();
      if (stats.kv_blocks_used == 0 && stats.num_running == 0 && stats.num_waiting == 0 &&
          stats.step_age == absl::ZeroDuration()) {
        break;
      }
      absl::SleepFor(absl::Milliseconds(1));
    }
    EXPECT_EQ(stats.kv_blocks_used, 0);
    EXPECT_EQ(stats.kv_blocks_free + stats.kv_blocks_cached, stats.kv_blocks_total);
    EXPECT_EQ(stats.num_running, 0);
    EXPECT_EQ(stats.num_waiting, 0);
    EXPECT_EQ(stats.num_waiting_tokens, 0);
    EXPECT_EQ(stats.step_age, absl::ZeroDuration());
    EXPECT_TRUE(stats.alive);
  }

  int32_t max_steps_under_way_ = 1;
  EngineOptions options_;
  EngineHooks hooks_;
  std::shared_ptr<FakeControl> control_ = std::make_shared<FakeControl>();
  std::unique_ptr<Engine> engine_;
};

}  // namespace tessera

#endif  // TESSERA_TESTS_ENGINE_ENGINE_FIXTURE_H_
