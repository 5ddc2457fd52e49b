// One node of a group without a server around it, for tests of several processes:
//
//   cluster_node head NODES TP DP EP ADDRESS KEY_FILE MODEL STEPS STEP_TIMEOUT_SECONDS
//   cluster_node worker HEAD_ADDRESS KEY_FILE MODEL [NODE_ADDRESS]
//
// The head computes a greedy and a seeded text in every data-parallel group, one token per step,
// prints a line per step and at the end "tokens GROUP KIND ids". NODES 1 runs all ranks here.
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_join.h"
#include "absl/time/clock.h"
#include "engine/executor/cluster_executor.h"
#include "engine/executor/local_executor.h"
#include "engine/executor/node_worker.h"
#include "engine/model/model_config.h"
#include "kernels/core/status_macros.h"

namespace tessera {
namespace {

constexpr int32_t kBlockSize = 16;
constexpr int32_t kBlocksPerText = 16;  // 256 tokens
constexpr int32_t kPromptTokens = 21;

void Print(const std::string& line) {
  std::puts(line.c_str());
  std::fflush(stdout);
}

ClusterAccess Access(const std::string& key_file) {
  return {.key_file = key_file,
          .tls = {},
          .software_version = "test",
          .join_timeout = absl::Seconds(60),
          .heartbeat_interval = absl::Milliseconds(500),
          .log = [](std::string_view line) {
            std::fprintf(stderr, "%.*s\n", static_cast<int>(line.size()), line.data());
          }};
}

// One text: its tokens so far, and how many of them have been computed.
struct Text {
  std::vector<int32_t> tokens;
  int32_t computed = 0;
  int32_t first_block = 0;
  bool seeded = false;
};

void AddRow(const Text& text, SamplingPlan* plan) {
  plan->forced.push_back(-1);
  plan->temperature.push_back(text.seeded ? 0.9F : 0.0F);
  plan->top_k.push_back(text.seeded ? 40 : 0);
  plan->top_p.push_back(text.seeded ? 0.95F : 1.0F);
  plan->min_p.push_back(0.0F);
  plan->repetition_penalty.push_back(1.0F);
  plan->presence_penalty.push_back(0.0F);
  plan->frequency_penalty.push_back(0.0F);
  plan->seed.push_back(20240607);
  plan->position.push_back(static_cast<int32_t>(text.tokens.size()));
  plan->num_logprobs.push_back(-1);
  plan->penalty_slot.push_back(-1);
  plan->penalty_reset.push_back(0);
  plan->pen_offsets.push_back(0);
  plan->adj_offsets.push_back(0);
  plan->mask_row.push_back(-1);
  plan->mask_penalty.push_back(0.0F);
}

BatchPlan MakeBatch(std::vector<Text>* texts) {
  BatchPlan plan;
  plan.cu_seqlens = {0};
  plan.sampling.pen_offsets = {0};
  plan.sampling.adj_offsets = {0};
  plan.max_blocks = kBlocksPerText;
  for (Text& text : *texts) {
    const auto length = static_cast<int32_t>(text.tokens.size());
    for (int32_t p = text.computed; p < length; ++p) {
      plan.token_ids.push_back(text.tokens[p]);
      plan.token_source.push_back(-1);
      plan.positions.push_back(p);
      plan.slot_mapping.push_back(text.first_block * kBlockSize + p);
    }
    text.computed = length;
    plan.cu_seqlens.push_back(plan.num_tokens());
    plan.context_lens.push_back(length);
    for (int32_t b = 0; b < kBlocksPerText; ++b) plan.block_tables.push_back(text.first_block + b);
    plan.logits_rows.push_back(plan.num_tokens() - 1);
    AddRow(text, &plan.sampling);
  }
  return plan;
}

std::vector<Text> MakeTexts(int32_t group) {
  std::vector<Text> texts(2);
  for (int32_t i = 0; i < 2; ++i) {
    for (int32_t t = 0; t < kPromptTokens + 3 * group; ++t) {
      texts[i].tokens.push_back(3 + (t * 37 + group * 11 + i * 5) % 250);
    }
    texts[i].first_block = i * kBlocksPerText;
    texts[i].seeded = i == 1;
  }
  return texts;
}

struct HeadArguments {
  ModelOptions model;
  HeadOptions head;
  int steps = 0;
  ExecutorLimits limits{
      .block_size = kBlockSize, .max_num_batched_tokens = 128, .max_model_len = 256};
};

absl::Status Generate(Executor& executor, int steps) {
  RETURN_IF_ERROR(executor.AllocateKv(2 * kBlocksPerText));
  std::vector<std::vector<Text>> groups;
  for (int32_t g = 0; g < executor.num_groups(); ++g) groups.push_back(MakeTexts(g));
  for (int step = 1; step <= steps; ++step) {
    StepPlan plan;
    plan.step_id = step;
    for (size_t g = 0; g < groups.size(); ++g) {
      // Long runs write the same text again and again.
      const bool full = groups[g][0].tokens.size() == kBlockSize * kBlocksPerText;
      if (full) groups[g] = MakeTexts(static_cast<int32_t>(g));
      plan.groups.push_back(MakeBatch(&groups[g]));
    }
    executor.Submit(std::move(plan));
    ASSIGN_OR_RETURN(const StepResult result, executor.Wait());
    for (size_t g = 0; g < groups.size(); ++g) {
      for (size_t i = 0; i < groups[g].size(); ++i) {
        groups[g][i].tokens.push_back(result.groups[g].token[i]);
      }
    }
    Print(absl::StrCat("step ", step));
  }
  for (size_t g = 0; g < groups.size(); ++g) {
    for (const Text& text : groups[g]) {
      Print(absl::StrCat("tokens ", g, text.seeded ? " seeded " : " greedy ",
                         absl::StrJoin(text.tokens, " ")));
    }
  }
  return executor.Shutdown(absl::Now() + absl::Seconds(10));
}

absl::Status RunHead(const HeadArguments& arguments) {
  ASSIGN_OR_RETURN(const ModelConfig config, LoadModelConfig(arguments.model.model_dir));
  std::unique_ptr<Executor> executor;
  if (arguments.head.nodes == 1) {
    ASSIGN_OR_RETURN(executor,
                     CreateLocalExecutor(arguments.model, arguments.limits, config, nullptr));
  } else {
    ASSIGN_OR_RETURN(executor, CreateClusterExecutor(arguments.model, arguments.limits, config,
                                                     arguments.head, nullptr));
  }
  Print("loaded");
  return Generate(*executor, arguments.steps);
}

int Usage() {
  std::fprintf(stderr, "see the comment in cluster_node.cc\n");
  return 2;
}

HeadArguments ParseHead(char** argv) {
  HeadArguments arguments;
  const auto number = [](const char* text) {
    int value = 0;
    return absl::SimpleAtoi(text, &value) ? value : 0;
  };
  arguments.head.nodes = number(argv[2]);
  arguments.model.layout = {.tensor_parallel = number(argv[3]),
                            .data_parallel = number(argv[4]),
                            .expert_parallel = number(argv[5]) == 1,
                            .moe_comm = "auto"};
  arguments.head.address = argv[6];
  arguments.head.access = Access(argv[7]);
  arguments.model.model_dir = argv[8];
  arguments.model.dtype = DType::kF32;
  arguments.model.backend = "cpu";
  arguments.model.num_threads = 1;
  arguments.steps = number(argv[9]);
  arguments.limits.step_timeout = absl::Seconds(number(argv[10]));
  return arguments;
}

int Main(int argc, char** argv) {
  const std::string mode = argc > 1 ? argv[1] : "";
  absl::Status status;
  if (mode == "head" && argc == 11) {
    status = RunHead(ParseHead(argv));
  } else if (mode == "worker" && (argc == 5 || argc == 6)) {
    status = RunNodeWorker({.model_dir = argv[4],
                            .head_address = argv[2],
                            .node_address = argc == 6 ? argv[5] : "",
                            .node_name = "",
                            .node_index = -1,
                            .num_threads = 1,
                            .access = Access(argv[3])});
  } else {
    return Usage();
  }
  if (status.ok()) return 0;
  std::fprintf(stderr, "%s failed: %s\n", mode.c_str(), status.ToString().c_str());
  std::fflush(stderr);
  _exit(3);  // ranks that hang have been left behind
}

}  // namespace
}  // namespace tessera

int main(int argc, char** argv) { return tessera::Main(argc, argv); }
