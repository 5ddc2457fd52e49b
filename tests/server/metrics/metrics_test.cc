#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdio>
#include <fstream>
#include <string>
#include <string_view>

#include "absl/strings/str_cat.h"
#include "server/metrics/catalogue.h"
#include "server/metrics/recorder.h"
#include "tests/server/fake_engine.h"

namespace tessera {
namespace {

using ::testing::AnyOf;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;

TEST(CatalogueTest, NamesFollowPrometheus) {
  for (int i = 0; i < static_cast<int>(Metric::kCount); ++i) {
    const MetricSpec& spec = SpecOf(static_cast<Metric>(i));
    const std::string name(spec.name);
    EXPECT_THAT(name, AnyOf(StartsWith("tessera_"), StartsWith("process_")));
    EXPECT_EQ(name.find(':'), std::string::npos);
    EXPECT_FALSE(spec.help.empty()) << name;
    const bool is_total = name.size() > 6 && name.substr(name.size() - 6) == "_total";
    EXPECT_EQ(is_total, spec.kind == MetricKind::kCounter) << name;
    EXPECT_EQ(spec.buckets.empty(), spec.kind != MetricKind::kHistogram) << name;
    EXPECT_TRUE(std::is_sorted(spec.buckets.begin(), spec.buckets.end())) << name;
  }
}

TEST(CatalogueTest, OtherPrefixes) {
  EXPECT_EQ(ShownName("tessera_num_requests_running", "tessera"), "tessera_num_requests_running");
  EXPECT_EQ(ShownName("tessera_num_requests_running", "mine"), "mine_num_requests_running");
  EXPECT_EQ(ShownName("process_open_fds", "mine"), "process_open_fds");
  // Names of vLLM's own page (documentation of its metrics).
  EXPECT_EQ(ShownName("tessera_num_requests_running", "vllm"), "vllm:num_requests_running");
  EXPECT_EQ(ShownName("tessera_kv_cache_usage_ratio", "vllm"), "vllm:kv_cache_usage_perc");
  EXPECT_EQ(ShownName("tessera_iteration_tokens", "vllm"), "vllm:iteration_tokens_total");
  EXPECT_EQ(ShownName("process_open_fds", "vllm"), "process_open_fds");
}

// A rate over a series that begins with its first event misses that event.
TEST(RecorderTest, EveryCallIsCountedFromTheStart) {
  const std::string page =
      MetricsRecorder(
          {.model_name = "m\"1", .prefix = "vllm", .log_lines_dropped = [] { return int64_t{3}; }})
          .Render();
  for (const char* method : {"Generate", "StreamGenerate", "Abort"}) {
    for (const char* code : {"OK", "CANCELLED", "UNAUTHENTICATED"}) {
      EXPECT_THAT(page, HasSubstr(absl::StrCat("vllm:requests_total{code=\"", code, "\",method=\"",
                                               method, "\",model_name=\"m\\\"1\"} 0\n")));
    }
  }
  for (const char* counter : {"prompt_tokens_total", "num_preemptions_total"}) {
    EXPECT_THAT(page, HasSubstr(absl::StrCat("vllm:", counter, "{model_name=\"m\\\"1\"} 0\n")));
  }
  EXPECT_THAT(page, HasSubstr("vllm:log_lines_dropped_total{model_name=\"m\\\"1\"} 3\n"));
  EXPECT_THAT(page, HasSubstr("process_resident_memory_bytes{"));
  EXPECT_THAT(page, Not(HasSubstr("tessera")));
}

TEST(RecorderTest, SaysWhyTheServerIsNotReady) {
  MetricsRecorder metrics;
  std::string_view reason = "loading";
  metrics.SetReadiness([&] { return reason; });
  EXPECT_THAT(metrics.Render(), HasSubstr("tessera_ready 0\n"));
  EXPECT_THAT(metrics.Render(), HasSubstr("tessera_unready{reason=\"loading\"} 1\n"));
  EXPECT_THAT(metrics.Render(), HasSubstr("tessera_unready{reason=\"draining\"} 0\n"));
  reason = "";
  EXPECT_THAT(metrics.Render(), HasSubstr("tessera_ready 1\n"));
  EXPECT_THAT(metrics.Render(), HasSubstr("tessera_unready{reason=\"loading\"} 0\n"));
}

// The last scrape of a server that stops must not look like a restart.
TEST(RecorderTest, CountersStayWhenTheEngineGoes) {
  FakeEngine engine;
  MetricsRecorder metrics;
  metrics.Attach({.engine = &engine, .limits = {{"max-num-seqs", 7}}});
  const std::string with = metrics.Render();
  EXPECT_THAT(with, HasSubstr("tessera_limit{limit=\"max-num-seqs\"} 7\n"));
  const size_t at = with.find("\ntessera_generation_tokens_total ");
  ASSERT_NE(at, std::string::npos);
  const std::string line = with.substr(at, with.find('\n', at + 1) - at + 1);
  metrics.Attach({});
  EXPECT_THAT(metrics.Render(), HasSubstr(line));
}

// Everything that can appear on the page does.
std::string FullPage() {
  FakeEngine engine;
  MetricsRecorder metrics({.log_lines_dropped = [] { return int64_t{0}; }});
  metrics.SetReadiness([] { return std::string_view("loading"); });
  EXPECT_THAT(metrics.Render(), HasSubstr("tessera_certificate_expiry_timestamp_seconds +Inf\n"));
  metrics.SetTenants([] {
    return std::vector<TenantFacts>{{.name = "acme",
                                     .open = 2,
                                     .requests = 9,
                                     .prompt_tokens = 70,
                                     .generation_tokens = 80,
                                     .refused = {{"tokens", 4}}}};
  });
  metrics.SetCertificateExpiry([] { return absl::FromUnixSeconds(1'800'000'000); });
  metrics.Attach(
      {.engine = &engine,
       .active_requests = [] { return 3; },
       .large_requests_queued = [] { return 2; },
       .block_size = 16,
       .group = {.num_ranks = 2, .gemm = "cublas", .moe_comm = {{{8, 2e-6F, 1e-6F}}, true}},
       .limits = {{"max-num-seqs", 7}}});
  metrics.CountCall("Generate", absl::StatusCode::kOk);
  metrics.CountRejected(absl::StatusCode::kInvalidArgument);
  metrics.CountCancelled(true);
  metrics.CountFinish(FinishReason::kStop);
  metrics.ObserveFirstToken(absl::Milliseconds(3));
  metrics.ObserveInterToken(absl::Milliseconds(30));
  auto loads = std::make_shared<ExpertLoads>();
  for (float ratio : {0.0F, 1.5F, 1.25F, 0.0F}) loads->layers.push_back({{}, ratio});
  loads->moves = {.completed = 3, .failed = 0, .timed_out = 1, .flips = 5};
  StepEvent step{.duration = absl::Milliseconds(2), .prefill_tokens = 5, .decode_tokens = 6};
  step.ranks = {{.rank = 0, .step_seconds = 1, .expert_rows = 30},
                {.rank = 1,
                 .step_seconds = 1,
                 .host_gap_seconds = 0.25F,
                 .expert_rows = 40,
                 .moved_bytes = 7}};
  step.ranks[1].collective_seconds = {0.5F, 0, 0, 0.25F, 0, 0};
  step.expert_loads = loads;
  metrics.ObserveStep(step);
  // What devices wait for requests is not the host's fault.
  StepEvent first{.after_rest = true};
  first.ranks = {{.rank = 0, .host_gap_seconds = 3600}};
  metrics.ObserveStep(first);
  const absl::Time start = absl::Now();
  FinishInfo info{.usage = {.prompt_tokens = 1, .completion_tokens = 3}};
  info.timing = {start, start, start + absl::Seconds(1), start + absl::Seconds(2), 0};
  metrics.ObserveRequest(info);
  return metrics.Render();
}

TEST(RecorderTest, PageHasEveryMetric) {
  const std::string page = FullPage();
  for (int i = 0; i < static_cast<int>(Metric::kCount); ++i) {
    const std::string name(SpecOf(static_cast<Metric>(i)).name);
    EXPECT_THAT(page, HasSubstr(absl::StrCat("# TYPE ", name, " "))) << name;
  }
  EXPECT_THAT(page, HasSubstr("tessera_certificate_expiry_timestamp_seconds 1800000000\n"));
  EXPECT_THAT(page, HasSubstr("tessera_tenant_requests_total{tenant=\"acme\"} 9\n"));
  EXPECT_THAT(page,
              HasSubstr("tessera_tenant_tokens_total{kind=\"generation\",tenant=\"acme\"} 80\n"));
  EXPECT_THAT(page,
              HasSubstr("tessera_tenant_refused_total{limit=\"tokens\",tenant=\"acme\"} 4\n"));
  EXPECT_THAT(page, HasSubstr("tessera_tenant_open_requests{tenant=\"acme\"} 2\n"));
  EXPECT_THAT(page, HasSubstr("tessera_tenant_waiting_requests{tenant=\"acme\"} 3\n"));
  EXPECT_THAT(page, HasSubstr("tessera_tenant_waiting_tokens{tenant=\"acme\"} 50\n"));
  EXPECT_THAT(page, HasSubstr("tessera_requests_total{code=\"OK\",method=\"Generate\"} 1\n"));
  EXPECT_THAT(page, HasSubstr("tessera_cache_config_info{block_size=\"16\",num_blocks=\"100\"} 1"));
  EXPECT_THAT(page, HasSubstr("tessera_moe_comm_cost_seconds{mode=\"alltoall\",tokens=\"8\"} "));
  EXPECT_THAT(page, HasSubstr("tessera_moe_comm_info{mode=\"alltoall\"} 1\n"));
  EXPECT_THAT(page, HasSubstr("tessera_gemm_info{batch_invariant=\"false\",gemm=\"cublas\"} 1\n"));
  EXPECT_THAT(page, HasSubstr("tessera_weights_info{activations=\"full\",kept=\"bfloat16\","
                              "stored=\"plain\"} 1\n"));
  EXPECT_THAT(page, HasSubstr("tessera_rank_up{rank=\"1\"} 1\n"));
  EXPECT_THAT(page, HasSubstr("tessera_rank_compute_seconds_total{rank=\"0\"} 1\n"));
  EXPECT_THAT(page, HasSubstr("tessera_rank_compute_seconds_total{rank=\"1\"} 0.25\n"));
  EXPECT_THAT(page, HasSubstr("tessera_rank_wait_seconds_total{rank=\"1\"} 0.75\n"));
  EXPECT_THAT(page, HasSubstr("tessera_expert_tokens_total{rank=\"1\"} 40\n"));
  EXPECT_THAT(page, HasSubstr("tessera_expert_moved_bytes_total{rank=\"1\"} 7\n"));
  EXPECT_THAT(page, HasSubstr("tessera_expert_moves_total{result=\"timed_out\"} 1\n"));
  EXPECT_THAT(page, HasSubstr("tessera_expert_placement_version 5\n"));
  EXPECT_THAT(page, HasSubstr("tessera_collective_seconds_count{op=\"all_reduce\"} 1\n"));
  EXPECT_THAT(page, HasSubstr("tessera_collective_seconds_count{op=\"all_gather\"} 0\n"));
  // Four layers fall into every other eighth; the first and last are dense.
  EXPECT_THAT(page, HasSubstr("tessera_expert_load_ratio{layer_bucket=\"3/8\"} 1.5\n"));
  EXPECT_THAT(page, HasSubstr("tessera_expert_load_ratio{layer_bucket=\"5/8\"} 1.25\n"));
  EXPECT_EQ(page.find("tessera_expert_load_ratio{layer_bucket=\"1/8\"}"), std::string::npos);
  EXPECT_THAT(page, HasSubstr("tessera_kv_blocks{state=\"free\"} 100\n"));
  EXPECT_THAT(page, HasSubstr("tessera_time_to_first_token_seconds_bucket{le=\"0.005\"} 1\n"));
  EXPECT_THAT(page, HasSubstr("tessera_time_to_first_token_seconds_bucket{le=\"0.001\"} 0\n"));
  EXPECT_THAT(page, HasSubstr("tessera_request_time_per_output_token_seconds_sum 0.5\n"));
  EXPECT_THAT(page, HasSubstr("tessera_step_duration_seconds_count{phase=\"mixed\"} 1\n"));
  EXPECT_THAT(page, HasSubstr("tessera_step_host_gap_seconds_count 1\n"));
  EXPECT_THAT(page, HasSubstr("tessera_step_host_gap_seconds_sum 0.25\n"));
}

TEST(RecorderTest, CallsAndEndsAreCountedApart) {
  MetricsRecorder metrics;
  for (int i = 0; i < 3; ++i) metrics.CountCall("Generate", absl::StatusCode::kOk);
  metrics.CountCall("Generate", absl::StatusCode::kInvalidArgument);
  metrics.CountCall("Tokenize", absl::StatusCode::kOk);
  for (int i = 0; i < 2; ++i) metrics.CountFinish(FinishReason::kToolCalls);
  metrics.CountFinish(FinishReason::kCancelled);
  const std::string page = metrics.Render();
  for (const char* line : {"requests_total{code=\"OK\",method=\"Generate\"} 3\n",
                           "requests_total{code=\"INVALID_ARGUMENT\",method=\"Generate\"} 1\n",
                           "requests_total{code=\"OK\",method=\"Tokenize\"} 1\n",
                           "request_success_total{finished_reason=\"tool_calls\"} 2\n",
                           "request_success_total{finished_reason=\"abort\"} 1\n",
                           "request_success_total{finished_reason=\"stop\"} 0\n"}) {
    EXPECT_THAT(page, HasSubstr(absl::StrCat("tessera_", line)));
  }
}

TEST(RecorderTest, PageIsCleanForPromtool) {
  if (std::system("command -v promtool >/dev/null 2>&1") != 0) {  // NOLINT(concurrency-mt-unsafe)
    GTEST_SKIP() << "promtool (Debian package prometheus) is not installed";
  }
  const std::string path = absl::StrCat(::testing::TempDir(), "/metrics.txt");
  std::ofstream(path) << FullPage();
  const std::string command = absl::StrCat("promtool check metrics < ", path);
  EXPECT_EQ(std::system(command.c_str()), 0);  // NOLINT(concurrency-mt-unsafe)
}

TEST(RecorderTest, StatusCodesAreSpelledAsInGrpc) {
  EXPECT_EQ(StatusCodeName(absl::StatusCode::kOk), "OK");
  EXPECT_EQ(StatusCodeName(absl::StatusCode::kInvalidArgument), "INVALID_ARGUMENT");
  EXPECT_EQ(StatusCodeName(static_cast<absl::StatusCode>(99)), "UNKNOWN");
}

}  // namespace
}  // namespace tessera
