// tessera check: what is in a model folder, what it needs, what is wrong with it.
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "engine/checkpoint/checkpoint.h"
#include "engine/model/checkpoint_check.h"
#include "engine/model/generation_config.h"
#include "engine/model/model_config.h"
#include "engine/text/tokenizer.h"
#include "server/commands/command.h"
#include "server/commands/engine_flags.h"
#include "server/logging.h"
#include "server/model_prompt_encoder.h"
#include "server/model_runtime.h"

namespace tessera {
namespace {

using Json = nlohmann::ordered_json;

constexpr const char* kServes = "ok: this model can be served";
constexpr const char* kTokenIdsOnly =
    "ok without a tokenizer: score, bench and generate work with token ids, serve and chat do not";
constexpr const char* kCannotServe = "this model cannot be served";

// What was found; everything that can be read is, whatever else is wrong.
struct Findings {
  Json facts = Json::object();
  std::vector<std::string> errors;
  std::vector<std::string> warnings;
  const char* verdict = kServes;  // when there are no errors

  // True when OK; otherwise notes the error.
  bool Note(const absl::Status& status) {
    if (!status.ok()) errors.emplace_back(status.message());
    return status.ok();
  }
};

void DescribeModel(const ModelConfig& config, Json* facts) {
  (*facts)["architecture"] = std::string(ArchitectureName(config.architecture));
  (*facts)["parameters"] = config.num_parameters();
  (*facts)["active_parameters"] = config.num_active_parameters();
  (*facts)["layers"] = config.num_hidden_layers;
  (*facts)["hidden_size"] = config.hidden_size;
  (*facts)["vocab_size"] = config.vocab_size;
  if (config.num_experts > 0) {
    (*facts)["experts"] = config.num_experts;
    (*facts)["experts_per_token"] = config.num_experts_per_tok;
  }
  if (config.quantization) {
    (*facts)["quantization"] = QuantizationText(*config.quantization);
    (*facts)["kv_scales_ignored"] = config.quantization->kv_scales;
  }
  (*facts)["context_limit"] = config.context_limit();
  constexpr int64_t kBF16Bytes = 2;
  constexpr int64_t kF32Bytes = 4;
  (*facts)["weights_bytes_bfloat16"] = config.num_parameters() * kBF16Bytes;
  (*facts)["weights_bytes_float32"] = config.num_parameters() * kF32Bytes;
  (*facts)["kv_bytes_per_token_bfloat16"] = config.KvBytesPerToken(DType::kBF16);
}

void NoteErrors(const CheckpointReport& report, Findings* findings) {
  for (const std::string& error : report.errors) findings->errors.push_back(error);
  const auto listed = static_cast<int64_t>(report.errors.size());
  if (report.num_errors > listed) {
    findings->errors.push_back(absl::StrCat("and ", report.num_errors - listed, " more errors"));
  }
}

void CheckWeights(const std::string& dir, const ModelConfig& config, Findings* findings) {
  const auto checkpoint = Checkpoint::Open(dir);
  if (!findings->Note(checkpoint.status())) return;
  findings->facts["files"] = (*checkpoint)->files().size();
  findings->facts["tensors"] = (*checkpoint)->names().size();
  findings->facts["stored_bytes"] = (*checkpoint)->total_bytes();
  const CheckpointReport report = VerifyCheckpoint(config, **checkpoint);
  NoteErrors(report, findings);
  for (const std::string& warning : report.warnings) findings->warnings.push_back(warning);
  if (!report.ok()) return;
  const absl::StatusOr<bool> own_head = HasOwnHead(config, **checkpoint);
  if (!findings->Note(own_head.status())) return;
  if (*own_head && config.tie_word_embeddings) findings->warnings.push_back(kUntiedHeadWarning);
  constexpr int64_t kLong = int64_t{1} << 30;  // bytes
  const bool takes_long = (*checkpoint)->total_bytes() >= kLong;
  NoteErrors(VerifyValues(config, **checkpoint, takes_long ? LogLoadProgress(dir) : LoadProgress()),
             findings);
}

// All that end a text, with a word about the one that the model's own files do not have.
void CheckEndTokens(const std::string& dir, const ModelConfig& config, int32_t of_tokenizer,
                    Findings* findings) {
  absl::StatusOr<GenerationConfig> generation = LoadGenerationConfig(dir, config);
  if (!findings->Note(generation.status())) return;
  if (AddEndToken(of_tokenizer, config, &*generation)) {
    findings->warnings.push_back(absl::StrCat(
        "the eos_token of tokenizer_config.json (", of_tokenizer,
        ") is none of config.json's and generation_config.json's: it ends a text, too"));
  }
  if (generation->eos_token_ids.empty()) {
    findings->warnings.push_back("no file names an end token: texts end at max_tokens only");
  }
  findings->facts["eos_token_ids"] = generation->eos_token_ids;
}

// `vocab_size`: of the model, 0 when it is unknown. Gives the tokenizer's end token, -1 if there is
// none.
int32_t CheckText(const std::string& dir, const std::string& chat_template, int32_t vocab_size,
                  Findings* findings) {
  const auto text = LoadModelText(dir, {.chat_template = chat_template});
  if (absl::IsNotFound(text.status())) {
    findings->warnings.push_back(std::string(text.status().message()));
    findings->verdict = kTokenIdsOnly;
    return -1;
  }
  if (!findings->Note(text.status())) return -1;
  findings->facts["tokenizer_size"] = text->tokenizer->vocab_size();
  if (vocab_size > 0 && text->tokenizer->vocab_size() > vocab_size) {
    findings->warnings.push_back(
        ForeignTokenizerWarning(text->tokenizer->vocab_size(), vocab_size));
  }
  findings->facts["chat_template"] = text->has_chat_template;
  if (!text->has_chat_template) {
    findings->warnings.push_back(
        absl::StrCat(dir, ": no chat template; chat requests are refused"));
  }
  return text->tokenizer->eos_token_id();
}

Findings CheckModel(const std::string& dir, const std::string& chat_template) {
  Findings findings;
  if (!findings.Note(CheckModelFolder(dir))) return findings;
  const auto config = LoadModelConfig(dir);
  if (findings.Note(config.status())) {
    DescribeModel(*config, &findings.facts);
    CheckWeights(dir, *config, &findings);
  }
  const int32_t end_token =
      CheckText(dir, chat_template, config.ok() ? config->vocab_size : 0, &findings);
  if (config.ok()) CheckEndTokens(dir, *config, end_token, &findings);
  return findings;
}

std::string Sentence(const Findings& findings) {
  std::string text;
  for (const auto& [name, value] : findings.facts.items()) {
    absl::StrAppend(&text,
                    absl::StrFormat("%-28s %s\n", name,
                                    value.is_string() ? value.get<std::string>() : value.dump()));
  }
  for (const std::string& warning : findings.warnings) {
    absl::StrAppend(&text, "warning: ", warning, "\n");
  }
  return absl::StrCat(text, findings.errors.empty() ? findings.verdict : kCannotServe, "\n");
}

}  // namespace

int RunCheck(const Arguments& arguments) {
  OptionTable table("tessera check", "MODEL",
                    "Reads everything in the folder MODEL and prints what it is, the memory it "
                    "needs and what is wrong with it.");
  bool json = false;
  table.Flag("json", &json, "As JSON.");
  std::string chat_template;
  AddChatTemplateOption(&table, &chat_template);
  std::vector<std::string> positional;
  if (const auto exit = ParseCommandLine(&table, "check", arguments, &positional, 1)) return *exit;
  InitLogging("info");
  Findings findings = CheckModel(positional[0], chat_template);
  if (json) {
    findings.facts["warnings"] = findings.warnings;
    findings.facts["errors"] = findings.errors;
    findings.facts["ok"] = findings.errors.empty();
    Print(findings.facts.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n");
  } else {
    Print(Sentence(findings));
  }
  if (findings.errors.empty()) return kExitOk;
  return Fail("check", absl::InvalidArgumentError(absl::StrJoin(findings.errors, "\n")));
}

}  // namespace tessera
