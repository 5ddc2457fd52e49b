#include "server/model_runtime.h"

#include <algorithm>
#include <filesystem>
#include <string>
#include <system_error>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "engine/executor/cluster_executor.h"
#include "engine/executor/local_executor.h"
#include "engine/model/checkpoint_check.h"
#include "engine/text/tokenizer.h"
#include "kernels/core/status_macros.h"
#include "kernels/ops.h"
#include "server/logging.h"
#include "server/model_prompt_encoder.h"

namespace tessera {
namespace {

constexpr double kMiB = 1 << 20;

std::string FolderName(const std::string& path) {
  const std::filesystem::path normal = std::filesystem::path(path).lexically_normal();
  const std::string name =
      normal.has_filename() ? normal.filename().string() : normal.parent_path().filename().string();
  return name.empty() || name == "." ? "model" : name;
}

ServedModel Describe(const RuntimeOptions& options, const ModelConfig& config,
                     const ModelText& text) {
  ServedModel model;
  model.name = ServedName(options);
  model.architecture = std::string(ArchitectureName(config.architecture));
  model.dtype = std::string(DTypeName(options.engine.model.dtype));
  model.vocab_size = config.vocab_size;
  model.num_parameters = config.num_parameters();
  model.num_active_parameters = config.num_active_parameters();
  model.has_tokenizer = text.tokenizer->vocab_size() > 0;
  model.has_chat_template = text.has_chat_template;
  model.think_open_id = text.tokenizer->TokenId("<think>");
  model.think_close_id = text.tokenizer->TokenId("</think>");
  model.tool_call_format =
      text.writes_coder_xml ? ToolCallFormat::kCoderXml : ToolCallFormat::kHermes;
  model.encoder = text.encoder;
  return model;
}

// Added tokens are none of the bytes that grammars speak of.
std::shared_ptr<StructureCache> MakeStructureCache(std::shared_ptr<const Tokenizer> tokenizer,
                                                   int32_t vocab_size,
                                                   std::vector<int32_t> end_token_ids) {
  if (tokenizer->vocab_size() == 0) return nullptr;
  return std::make_shared<StructureCache>([tokenizer, vocab_size, ends = std::move(end_token_ids)] {
    const grammar::TokenVocabulary::Options options{
        .vocab_size = vocab_size, .end_token_ids = ends, .bytes = [&](int32_t id) {
          return tokenizer->IsAdded(id) ? std::string_view() : tokenizer->TokenBytes(id);
        }};
    return GrammarTokens{
        .vocabulary = std::make_shared<const grammar::TokenVocabulary>(options),
        .find_token = [tokenizer](std::string_view text) -> std::optional<int32_t> {
          int32_t id = 0;
          if (absl::SimpleAtoi(std::string(text), &id) && tokenizer->IsAdded(id)) return id;
          return tokenizer->TokenId(text);
        }};
  });
}

// RoPE has a value for every position; how good answers are beyond what the model was made for is
// the operator's decision.
void WarnOfLongContext(const ModelOptions& options, const ModelConfig& config) {
  if (options.max_model_len <= config.context_limit()) return;
  LogWarning(absl::StrCat("a context of ", options.max_model_len, " tokens is more than the ",
                          config.context_limit(), " this model was made for"));
}

void WarnOfForeignTokenizer(const ModelConfig& config, const Tokenizer& tokenizer) {
  if (tokenizer.vocab_size() <= config.vocab_size) return;
  LogWarning(ForeignTokenizerWarning(tokenizer.vocab_size(), config.vocab_size));
}

void LogCommunicationChoice(const MoeCommChoice& choice) {
  if (choice.costs.empty()) return;
  for (const MoeCommCost& cost : choice.costs) {
    constexpr double kMicroseconds = 1e6;
    LogInfo(absl::StrFormat(
        "moe-comm auto: %d tokens per group: all-reduce %.1f us, all-to-all %.1f us", cost.tokens,
        cost.all_reduce * kMicroseconds, cost.all_to_all * kMicroseconds));
  }
  LogInfo(absl::StrCat("moe-comm auto: ", choice.all_to_all ? "all-to-all" : "all-reduce",
                       " in all steps"));
}

void LogRebalancing(const GroupFacts& group) {
  if (group.expert_rebalance_interval == 0) return;
  LogInfo(absl::StrFormat(
      "experts may move every %d steps; %d spare slots per rank and layer take up to %.1f MiB of "
      "every rank",
      group.expert_rebalance_interval, group.spare_expert_slots,
      static_cast<double>(group.spare_expert_bytes) / kMiB));
}

void LogGraphs(const EngineStats& stats) {
  if (stats.step_graphs == 0) return;
  LogInfo(absl::StrFormat("decode steps run as %d graphs, which take %.1f MiB of every rank",
                          stats.step_graphs, static_cast<double>(stats.step_graph_bytes) / kMiB));
}

// Puts what "auto" stands for in its place, and says what and why.
void SettleBackend(ModelOptions* options) {
  if (options->backend != "auto") return;
  const BackendChoice choice = ChooseBackend();
  options->backend = std::string(choice.backend);
  LogInfo(absl::StrCat("backend auto: ", options->backend, ", for ", choice.why));
}

void WarnOfForeignProducts(const GroupFacts& group) {
  if (group.gemm == "ours") return;
  LogWarning(absl::StrCat("--gemm ", group.gemm,
                          ": a token's bits may depend on what is served beside it"));
}

void LogQuantization(const ModelConfig& config, const WeightFacts& weights) {
  if (!config.quantization) return;
  LogInfo(absl::StrCat("quantised weights (", weights.stored, ") are kept as ", weights.kept,
                       " and multiply activations that are not quantised"));
  if (!config.quantization->kv_scales) return;
  LogWarning("the checkpoint's scales for a quantised KV cache are ignored");
}

void LogKvCache(const EngineStats& stats, const MemoryReport& memory,
                const EngineOptions& options) {
  const int32_t groups = std::max(options.model.layout.data_parallel, 1);
  const int32_t blocks = stats.kv_blocks_total / groups;
  LogInfo(absl::StrFormat("KV cache: %d blocks of %d tokens per group, %.1f MiB on every rank",
                          blocks, options.scheduler.block_size,
                          static_cast<double>(blocks * memory.kv_block_bytes) / kMiB));
}

// One sequence may be as long as all of the KV cache holds, which can be less than what the model
// can see.
void WarnOfCutContext(const ServedModel& model, const MemoryReport& memory,
                      const EngineOptions& options) {
  if (model.max_model_len >= model.full_model_len) return;
  const int64_t block_size = options.scheduler.block_size;
  const int64_t blocks = (model.full_model_len + block_size - 1) / block_size;
  const int64_t ranks = std::max(options.model.layout.tensor_parallel, 1);
  const int64_t needed = blocks * memory.kv_block_bytes * ranks;
  LogWarning(absl::StrFormat(
      "the KV cache holds %d tokens, fewer than the context of the model (%d): longer requests are "
      "refused; one sequence of %d tokens needs --kv-cache-memory %d (%.1f MiB)",
      model.max_model_len, model.full_model_len, model.full_model_len, needed,
      static_cast<double>(needed) / kMiB));
}

absl::StatusOr<std::unique_ptr<Executor>> MakeExecutor(const RuntimeOptions& runtime,
                                                       const ModelConfig& config,
                                                       const LoadProgress& progress) {
  const EngineOptions& options = runtime.engine;
  const ExecutorLimits limits = {.block_size = options.scheduler.block_size,
                                 .max_num_batched_tokens = options.scheduler.max_num_batched_tokens,
                                 .max_num_seqs = options.scheduler.max_num_seqs,
                                 .max_model_len = options.model.max_model_len,
                                 .step_timeout = options.step_timeout};
  if (runtime.head.nodes > 1) {
    return CreateClusterExecutor(options.model, limits, config, runtime.head, progress);
  }
  return CreateLocalExecutor(options.model, limits, config, progress);
}

}  // namespace

std::string ServedName(const RuntimeOptions& options) {
  return options.served_model_name.empty() ? FolderName(options.engine.model.model_dir)
                                           : options.served_model_name;
}

absl::Status CheckModelFolder(const std::string& model_dir) {
  std::error_code error;
  const std::filesystem::file_status status = std::filesystem::status(model_dir, error);
  if (std::filesystem::is_directory(status)) return absl::OkStatus();
  const char* problem = std::filesystem::exists(status) ? "is not a folder" : "does not exist";
  return absl::NotFoundError(
      absl::StrCat(model_dir, " ", problem,
                   "; give the folder of a Hugging Face Qwen3 checkpoint (config.json, "
                   "tokenizer.json, *.safetensors)"));
}

absl::StatusOr<std::unique_ptr<Executor>> LoadExecutor(const RuntimeOptions& options,
                                                       const ModelConfig& config,
                                                       const LoadProgress& progress) {
  WarnOfLongContext(options.engine.model, config);
  RuntimeOptions settled = options;
  SettleBackend(&settled.engine.model);
  return MakeExecutor(settled, config, progress);
}

absl::StatusOr<std::unique_ptr<ModelRuntime>> ModelRuntime::Load(RuntimeOptions options,
                                                                 const LoadProgress& progress,
                                                                 EngineHooks hooks) {
  const std::string& dir = options.engine.model.model_dir;
  RETURN_IF_ERROR(CheckModelFolder(dir));
  SettleBackend(&options.engine.model);
  ASSIGN_OR_RETURN(const ModelConfig config, LoadModelConfig(dir));
  WarnOfLongContext(options.engine.model, config);
  ASSIGN_OR_RETURN(GenerationConfig generation, LoadGenerationConfig(dir, config));
  ASSIGN_OR_RETURN(const ModelText text,
                   LoadModelText(dir, {.chat_template = options.chat_template,
                                       .token_ids_suffice = options.token_ids_suffice}));
  WarnOfForeignTokenizer(config, *text.tokenizer);
  AddEndToken(text.tokenizer->eos_token_id(), config, &generation);
  ASSIGN_OR_RETURN(std::unique_ptr<Executor> executor, MakeExecutor(options, config, progress));

  std::unique_ptr<ModelRuntime> runtime(new ModelRuntime);
  runtime->options_ = options.engine;
  runtime->options_.eos_token_ids = generation.eos_token_ids;
  runtime->memory_ = executor->memory();
  runtime->group_ = executor->facts();
  LogCommunicationChoice(runtime->group_.moe_comm);
  LogRebalancing(runtime->group_);
  WarnOfForeignProducts(runtime->group_);
  LogQuantization(config, runtime->group_.weights);
  if (runtime->group_.unties_head) LogWarning(kUntiedHeadWarning);
  runtime->model_ = Describe(options, config, text);
  runtime->model_.generation = std::move(generation);
  ASSIGN_OR_RETURN(runtime->engine_, Engine::Create(runtime->options_, config, text.tokenizer,
                                                    std::move(executor), std::move(hooks)));
  LogGraphs(runtime->engine_->stats());
  runtime->model_.structures =
      MakeStructureCache(text.tokenizer, config.vocab_size,
                         runtime->options_.eos_token_ids.empty() ? config.eos_token_ids
                                                                 : runtime->options_.eos_token_ids);
  runtime->model_.max_model_len = runtime->engine_->max_model_len();
  runtime->model_.full_model_len =
      options.engine.model.max_model_len > 0
          ? options.engine.model.max_model_len
          : std::max(config.context_limit(), runtime->model_.max_model_len);
  LogKvCache(runtime->engine_->stats(), runtime->memory_, options.engine);
  WarnOfCutContext(runtime->model_, runtime->memory_, options.engine);
  return runtime;
}

}  // namespace tessera
