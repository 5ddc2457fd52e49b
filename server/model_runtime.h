// The composition root: a model folder becomes a running engine.
#ifndef TESSERA_SERVER_MODEL_RUNTIME_H_
#define TESSERA_SERVER_MODEL_RUNTIME_H_

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "engine/engine.h"
#include "engine/executor/cluster_options.h"
#include "engine/executor/executor.h"
#include "engine/load_progress.h"
#include "engine/model/model_config.h"
#include "engine/options.h"
#include "server/served_model.h"

namespace tessera {

struct RuntimeOptions {
  EngineOptions engine;
  std::string served_model_name;   // empty: the name of the folder
  std::string chat_template;       // a file, or the name of one of the model's; empty: its default
  bool token_ids_suffice = false;  // the folder need not have a tokenizer
  HeadOptions head{.nodes = 1};    // 1: all ranks live in this process
};

// Everything an answer needs. The model outlives the engine's requests.
class ModelRuntime {
 public:
  // Errors name the file or the option that is wrong and what to do.
  static absl::StatusOr<std::unique_ptr<ModelRuntime>> Load(RuntimeOptions options,
                                                            const LoadProgress& progress,
                                                            EngineHooks hooks);

  const ServedModel& model() const { return model_; }
  Engine& engine() { return *engine_; }
  const EngineOptions& options() const { return options_; }
  const MemoryReport& memory() const { return memory_; }
  const GroupFacts& group() const { return group_; }

 private:
  ModelRuntime() = default;

  EngineOptions options_;
  MemoryReport memory_;
  GroupFacts group_;
  ServedModel model_;
  std::unique_ptr<Engine> engine_;
};

// The executor without an engine, for scoring. `config`: of the folder's model.
absl::StatusOr<std::unique_ptr<Executor>> LoadExecutor(const RuntimeOptions& options,
                                                       const ModelConfig& config,
                                                       const LoadProgress& progress);

// The name that requests may use: --served-model-name, or the name of the folder.
std::string ServedName(const RuntimeOptions& options);

// InvalidArgument says that the folder does not exist or is none.
absl::Status CheckModelFolder(const std::string& model_dir);

}  // namespace tessera

#endif  // TESSERA_SERVER_MODEL_RUNTIME_H_
