#include "engine/engine.h"

#include <openssl/rand.h>

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/engine_loop.h"
#include "engine/kv_preparation.h"
#include "engine/model/model_config.h"
#include "engine/text/tokenizer.h"
#include "kernels/core/status_macros.h"

namespace tessera {
namespace {

absl::Status CheckOptions(const SchedulerOptions& options) {
  if (options.max_num_seqs < 1 || options.max_num_batched_tokens < 1 ||
      options.max_prefill_chunk < 1 || options.block_size < 1) {
    return absl::InvalidArgumentError(
        "max_num_seqs, max_num_batched_tokens, max_prefill_chunk and block_size must be at least "
        "1");
  }
  if (options.ageing <= absl::ZeroDuration()) {
    return absl::InvalidArgumentError("ageing must be longer than 0");
  }
  return absl::OkStatus();
}

uint64_t RandomSeed() {
  uint64_t seed = 0;
  TESSERA_CHECK(RAND_bytes(reinterpret_cast<unsigned char*>(&seed), sizeof(seed)) == 1);
  return seed;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Engine>> Engine::Create(const EngineOptions& options,
                                                       const ModelConfig& config,
                                                       std::shared_ptr<const Tokenizer> tokenizer,
                                                       std::unique_ptr<Executor> executor,
                                                       EngineHooks hooks) {
  EngineLoopOptions loop{.scheduler = options.scheduler, .step_timeout = options.step_timeout};
  RETURN_IF_ERROR(CheckOptions(loop.scheduler));
  ASSIGN_OR_RETURN(const KvSizing sizing, PrepareKv(options, config, *executor));
  loop.scheduler.num_blocks = sizing.num_blocks;
  loop.scheduler.max_model_len = sizing.max_model_len;
  loop.scheduler.vocab_size = config.vocab_size;
  loop.defaults = {
      .eos_token_ids = options.eos_token_ids.empty() ? config.eos_token_ids : options.eos_token_ids,
      .think_start_id = tokenizer->TokenId("<think>").value_or(-1),
      .think_end_id = tokenizer->TokenId("</think>").value_or(-1),
      .max_model_len = sizing.max_model_len,
      .vocab_size = config.vocab_size,
      .seed = RandomSeed()};
  loop.defaults.tokenizer = std::move(tokenizer);
  if (loop.defaults.eos_token_ids.size() > static_cast<size_t>(kMaxEosIds)) {
    return absl::InvalidArgumentError(absl::StrCat(
        "the model names ", loop.defaults.eos_token_ids.size(),
        " tokens that end a text (eos_token_id), at most ", kMaxEosIds, " are possible"));
  }
  return std::make_unique<EngineLoop>(loop, std::move(executor), std::move(hooks));
}

}  // namespace tessera
