// Options of every command that loads a model.
#ifndef TESSERA_SERVER_COMMANDS_ENGINE_FLAGS_H_
#define TESSERA_SERVER_COMMANDS_ENGINE_FLAGS_H_

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "engine/options.h"
#include "server/model_runtime.h"
#include "server/option_table.h"

namespace tessera {

// What every process with ranks takes, workers too.
void AddCpuIsaOption(OptionTable* table, std::string* cpu_isa);
void AddEmulatedGpusOption(OptionTable* table, int32_t* gpus);
// For commands that render chats.
void AddChatTemplateOption(OptionTable* table, std::string* chat_template);
void AddModelOptions(OptionTable* table, EngineOptions* options);

// Shows progress as log lines, every tenth.
LoadProgress LogLoadProgress(const std::string& model_dir);

// For commands that answer in this process and show no metrics.
absl::StatusOr<std::unique_ptr<ModelRuntime>> LoadRuntime(const RuntimeOptions& options);

// For a sequence of known length: makes the context long enough, unless --max-model-len was given.
// Does nothing when config.json cannot be read; loading the model will say why.
void MakeRoomFor(int64_t num_tokens, EngineOptions* options);

}  // namespace tessera

#endif  // TESSERA_SERVER_COMMANDS_ENGINE_FLAGS_H_
