// One tenant floods the scheduler, another goes on with its work: what it loses, in virtual time.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <map>
#include <memory>
#include <random>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "tests/engine/scheduler/scheduler_fixture.h"

namespace tessera {
namespace {

// A step takes as long as a GPU's: reading the weights, and something for every token.
absl::Duration StepTime(const BatchPlan& plan) {
  return absl::Milliseconds(10) + plan.num_tokens() * absl::Microseconds(20);
}

struct Flood {
  const char* name;
  bool comes = true;
  int32_t least_prompt = 1;
  int32_t most_prompt = 1;
  int32_t most_output = 1;
  int32_t priority = 0;
  bool prefix_cache = true;
  bool named = true;  // else all are one tenant
};

struct Outcome {
  double tokens_per_second = 0;
  absl::Duration ttft;       // of 99 %
  int64_t flood_tokens = 0;  // computed
};

// The steady tenant's requests come by themselves, so many that half of the machine can serve them.
class Street {
 public:
  Street(uint64_t seed, const Flood& flood)
      : random_(seed),
        flood_random_(seed),
        flood_(flood),
        scheduler_(Options(flood), BlockHash{}) {}

  Outcome Run() {
    absl::Time next_steady = now_;
    while (finished_ < kSteady) {
      if (flood_.comes) {
        while (flood_waiting() < kFloodWaits) AddFlood();
      }
      while (next_steady <= now_ && sent_ < kSteady) {
        AddSteady(next_steady);
        next_steady += absl::Milliseconds(Random(&random_, kMeanGapMs / 2, kMeanGapMs * 3 / 2));
      }
      Step();
      EXPECT_LT(now_, absl::UnixEpoch() + absl::Hours(1));
      if (testing::Test::HasFatalFailure()) break;
    }
    std::sort(ttft_.begin(), ttft_.end());
    return {.tokens_per_second =
                static_cast<double>(tokens_) / absl::ToDoubleSeconds(now_ - absl::UnixEpoch()),
            .ttft = ttft_[ttft_.size() * 99 / 100],
            .flood_tokens = all_tokens_ - steady_tokens_};
  }

 private:
  static constexpr int32_t kSteady = 400;
  static constexpr int32_t kMeanGapMs = 50;
  static constexpr int32_t kFloodWaits = 40;

  static SchedulerOptions Options(const Flood& flood) {
    SchedulerOptions options;
    options.max_num_seqs = 16;
    options.max_num_batched_tokens = 256;
    options.max_prefill_chunk = 128;
    options.block_size = 16;
    options.num_blocks = 160;
    options.max_model_len = 1000;
    options.vocab_size = 50;
    options.enable_prefix_cache = flood.prefix_cache;
    return options;
  }

  static int32_t Random(std::mt19937_64* random, int32_t low, int32_t high) {
    return low + static_cast<int32_t>((*random)() % static_cast<uint64_t>(high - low + 1));
  }

  int32_t flood_waiting() const {
    return scheduler_.stats().num_waiting - static_cast<int32_t>(steady_waiting_.size());
  }

  void Add(const char* tenant, std::shared_ptr<GenerateRequest> request, absl::Time at) {
    if (flood_.named) request->tenant.name = tenant;
    request->cache_salt = tenant;
    scheduler_.Add(MakeSequence(++last_id_, std::move(request), at));
  }
  static std::shared_ptr<GenerateRequest> RandomRequest(std::mt19937_64* random, int32_t prompt,
                                                        int32_t output) {
    auto request = MakeRequest(prompt, output);
    for (int32_t& token : request->prompt_ids) token = Random(random, 0, 49);
    return request;
  }
  void AddFlood() {
    const int32_t prompt = Random(&flood_random_, flood_.least_prompt, flood_.most_prompt);
    const int32_t output = Random(&flood_random_, 1, flood_.most_output);
    auto request = RandomRequest(&flood_random_, prompt, output);
    request->priority = flood_.priority;
    Add("flood", std::move(request), now_);
  }
  void AddSteady(absl::Time at) {
    const int32_t prompt = Random(&random_, 20, 200);
    const int32_t output = Random(&random_, 8, 24);
    Add("steady", RandomRequest(&random_, prompt, output), at);
    steady_tokens_ += prompt + output - 1;
    steady_waiting_[last_id_] = at;
    steady_.insert(last_id_);
    ++sent_;
  }

  void Step() {
    const ScheduleResult result = scheduler_.Schedule(now_);
    if (result.plan.num_sequences() == 0) {
      now_ += absl::Milliseconds(1);
      return;
    }
    now_ += StepTime(result.plan);
    all_tokens_ += result.plan.num_tokens();
    for (const SequenceUpdate& update : scheduler_.Apply(ResultOf(result.plan))) {
      const auto id = static_cast<uint64_t>(update.id);
      if (update.token < 0 || !steady_.contains(id)) continue;
      ++tokens_;
      const auto waiting = steady_waiting_.find(id);
      if (waiting != steady_waiting_.end()) {
        ttft_.push_back(now_ - waiting->second);
        steady_waiting_.erase(waiting);
      }
      if (update.finish.has_value()) ++finished_;
    }
    ASSERT_TRUE(scheduler_.CheckIntegrity().ok());
  }

  std::mt19937_64 random_;
  std::mt19937_64 flood_random_;
  const Flood flood_;
  Scheduler scheduler_;
  absl::Time now_ = absl::UnixEpoch();
  uint64_t last_id_ = 0;
  std::set<uint64_t> steady_;
  std::map<uint64_t, absl::Time> steady_waiting_;  // for their first token
  std::vector<absl::Duration> ttft_;
  int32_t sent_ = 0;
  int32_t finished_ = 0;
  int64_t tokens_ = 0;
  int64_t steady_tokens_ = 0;  // that all its requests take
  int64_t all_tokens_ = 0;     // computed
};

class FloodTest : public testing::TestWithParam<Flood> {};

TEST_P(FloodTest, AnotherTenantLosesLittle) {
  const char* text = std::getenv("TESSERA_FLOOD_SEED");  // NOLINT(concurrency-mt-unsafe)
  const uint64_t first = text == nullptr ? 1 : std::strtoull(text, nullptr, 10);
  for (uint64_t seed = first; seed < first + (text == nullptr ? 4 : 1); ++seed) {
    SCOPED_TRACE(testing::Message() << "repeat with TESSERA_FLOOD_SEED=" << seed);
    Flood none = GetParam();
    none.comes = false;
    const Outcome alone = Street(seed, none).Run();
    const Outcome flooded = Street(seed, GetParam()).Run();
    std::printf("seed %d: %.0f and %.0f tokens/s, TTFT %s and %s, %lld tokens of the flood\n",
                static_cast<int>(seed), alone.tokens_per_second, flooded.tokens_per_second,
                absl::FormatDuration(alone.ttft).c_str(),
                absl::FormatDuration(flooded.ttft).c_str(),
                static_cast<long long>(flooded.flood_tokens));
    EXPECT_GE(flooded.tokens_per_second, 0.8 * alone.tokens_per_second);
    EXPECT_LE(flooded.ttft, 2 * alone.ttft);
    EXPECT_GT(flooded.flood_tokens, 10'000);  // what is left over is used
  }
}

// The control: as one tenant the flood is in everybody's way.
TEST(FloodControl, WithoutTenantsItLosesMuch) {
  const Flood flood{.most_prompt = 800, .most_output = 190, .named = false};
  Flood none = flood;
  none.comes = false;
  EXPECT_GT(Street(1, flood).Run().ttft, 50 * Street(1, none).Run().ttft);
}

INSTANTIATE_TEST_SUITE_P(
    Floods, FloodTest,
    testing::Values(
        Flood{.name = "LongAnswers", .most_prompt = 20, .most_output = 400},
        Flood{.name = "LongPrompts", .least_prompt = 600, .most_prompt = 900, .most_output = 4},
        Flood{.name = "Both", .most_prompt = 800, .most_output = 190},
        Flood{.name = "Tiny", .most_prompt = 4, .most_output = 2},
        Flood{.name = "LessImportant", .most_prompt = 800, .most_output = 190, .priority = 3},
        Flood{.name = "WithoutPrefixCache",
              .most_prompt = 800,
              .most_output = 190,
              .prefix_cache = false}),
    [](const auto& flood) { return std::string(flood.param.name); });

}  // namespace
}  // namespace tessera
