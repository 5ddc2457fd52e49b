// tessera score: the model's opinion of a token sequence.
#include <algorithm>
#include <cmath>

#include "absl/algorithm/container.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "engine/executor/sequence_runner.h"
#include "kernels/core/status_macros.h"
#include "server/commands/cluster_flags.h"
#include "server/commands/command.h"
#include "server/commands/engine_flags.h"
#include "server/commands/generation_flags.h"
#include "server/commands/response_json.h"

namespace tessera {
namespace {

absl::StatusOr<std::vector<int32_t>> CheckedIds(const std::string& text,
                                                const ModelConfig& config) {
  ASSIGN_OR_RETURN(const std::vector<int64_t> wide, ParseIds("--token-ids", text));
  std::vector<int32_t> ids;
  for (const int64_t id : wide) {
    if (id < 0 || id >= config.vocab_size) {
      return absl::InvalidArgumentError(
          absl::StrCat("--token-ids: ", id, " is not in [0, ", config.vocab_size, ")"));
    }
    ids.push_back(static_cast<int32_t>(id));
  }
  return ids;
}

absl::StatusOr<ScoreResult> Score(const RuntimeOptions& options, const std::string& token_ids) {
  const std::string& dir = options.engine.model.model_dir;
  RETURN_IF_ERROR(CheckModelFolder(dir));
  ASSIGN_OR_RETURN(const ModelConfig config, LoadModelConfig(dir));
  ASSIGN_OR_RETURN(const std::vector<int32_t> ids, CheckedIds(token_ids, config));
  ASSIGN_OR_RETURN(const std::unique_ptr<Executor> executor,
                   LoadExecutor(options, config, LogLoadProgress(dir)));
  const SchedulerOptions& scheduler = options.engine.scheduler;
  const int32_t block_size = scheduler.block_size;
  const auto num_blocks = static_cast<int32_t>(ids.size()) / block_size + 1;
  RETURN_IF_ERROR(executor->AllocateKv(num_blocks));
  constexpr int32_t kChunk = 256;
  Watchdog watchdog(options.engine.step_timeout, [limit = options.engine.step_timeout] {
    FailAtOnce("score", absl::DeadlineExceededError(absl::StrCat(
                            "a step has not finished within ", absl::FormatDuration(limit),
                            ": a rank hangs (see --step-timeout)")));
  });
  auto result = ScoreTokens(*executor, block_size,
                            std::min(kChunk, scheduler.max_num_batched_tokens), ids, &watchdog);
  RETURN_IF_ERROR(executor->Shutdown(absl::InfiniteFuture()));
  RETURN_IF_ERROR(result.status());
  const auto is_finite = [](float value) { return std::isfinite(value); };
  if (std::isfinite(result->nll) && absl::c_all_of(result->last_logits, is_finite)) return result;
  return absl::DataLossError(absl::StrCat(
      "the logits are not finite: the weights may be damaged; see \"tessera check ", dir, "\""));
}

}  // namespace

int RunScore(const Arguments& arguments) {
  OptionTable table("tessera score", "MODEL",
                    "Log probabilities of a token sequence under the model in the folder MODEL.");
  RuntimeOptions options;
  std::string token_ids;
  bool json = false;
  table.Text("token-ids", &token_ids, "The sequence: 1,2,3.");
  table.Flag("json", &json, "Print everything as JSON instead of the mean.");
  AddModelOptions(&table, &options.engine);
  AddHeadOptions(&table, &options);
  std::vector<std::string> positional;
  if (const auto exit = ParseCommandLine(&table, "score", arguments, &positional, 1)) return *exit;
  if (token_ids.empty()) {
    return FailUsage("score", absl::InvalidArgumentError("give --token-ids"));
  }
  const auto ids = ParseIds("--token-ids", token_ids);
  if (!ids.ok()) return FailUsage("score", ids.status());
  if (ids->empty()) return FailUsage("score", absl::InvalidArgumentError("give --token-ids"));

  if (const absl::Status status = CheckHeadOptions(options.head); !status.ok()) {
    return FailUsage("score", status);
  }

  InitHeadLogging(options.head);
  CompleteAccess(&options.head.access);
  options.engine.model.model_dir = positional[0];
  MakeRoomFor(static_cast<int64_t>(ids->size()), &options.engine);
  const auto result = Score(options, token_ids);
  if (!result.ok()) return Fail("score", result.status());
  if (json) {
    Print(
        absl::StrFormat("{\"logprobs\": %s, \"argmax\": %s, \"nll\": %.9g, \"last_logits\": %s}\n",
                        FloatsJson(result->logprobs), IdsJson(result->argmax), result->nll,
                        FloatsJson(result->last_logits)));
  } else {
    Print(absl::StrFormat("%d tokens, mean negative log likelihood %.6f\n", ids->size(),
                          result->nll));
  }
  return kExitOk;
}

}  // namespace tessera
