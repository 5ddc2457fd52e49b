// tessera generate: one answer, without a server.
#include "server/commands/cluster_flags.h"
#include "server/commands/command.h"
#include "server/commands/engine_flags.h"
#include "server/commands/generation_flags.h"
#include "server/commands/response_json.h"
#include "server/text_generator.h"

namespace tessera {

int RunGenerate(const Arguments& arguments) {
  OptionTable table("tessera generate", "MODEL",
                    "Answers one prompt with the model in the folder MODEL, in this process.");
  GenerationFlags flags;
  RuntimeOptions options;
  bool json = false;
  table.Flag("json", &json, "Print text, reasoning, token ids and usage as JSON.");
  AddPromptOptions(&table, &flags);
  AddChatTemplateOption(&table, &options.chat_template);
  AddSamplingOptions(&table, &flags);
  AddModelOptions(&table, &options.engine);
  AddHeadOptions(&table, &options);
  std::vector<std::string> positional;
  if (const auto exit = ParseCommandLine(&table, "generate", arguments, &positional, 1)) {
    return *exit;
  }
  const auto request = PromptRequest(flags);
  if (!request.ok()) return FailRequest("generate", request.status());
  if (const absl::Status status = CheckHeadOptions(options.head); !status.ok()) {
    return FailUsage("generate", status);
  }

  InitHeadLogging(options.head);
  CompleteAccess(&options.head.access);
  options.engine.model.model_dir = positional[0];
  options.token_ids_suffice = request->has_token_ids();
  if (options.token_ids_suffice) {
    MakeRoomFor(request->token_ids().ids_size() + flags.max_tokens.value_or(1), &options.engine);
  }
  const auto runtime = LoadRuntime(options);
  if (!runtime.ok()) return Fail("generate", runtime.status());
  const auto response = Generate(*MakeLocalGenerator(runtime->get()), *request);
  if (!response.ok()) FailAtOnce("generate", response.status());
  Print(json ? ResponseJson(*response) : ResponseText(*response));
  return kExitOk;
}

}  // namespace tessera
