// tessera client: one answer from a running server.
#include "server/commands/command.h"
#include "server/commands/generation_flags.h"
#include "server/commands/response_json.h"
#include "server/commands/target_flags.h"
#include "server/grpc/client_channel.h"
#include "server/grpc/remote_generator.h"
#include "server/logging.h"
#include "server/text_generator.h"

namespace tessera {

int RunClient(const Arguments& arguments) {
  OptionTable table("tessera client", "HOST:PORT|unix:PATH",
                    "Answers one prompt through a running server.");
  GenerationFlags flags;
  bool json = false;
  absl::Duration timeout = absl::ZeroDuration();
  ServerTarget server;
  table.Flag("json", &json, "Print text, reasoning, token ids and usage as JSON.");
  table.Seconds("timeout", &timeout, 0, "Deadline of the request in seconds; 0: none.");
  AddTargetOptions(&table, &server);
  AddPromptOptions(&table, &flags);
  AddSamplingOptions(&table, &flags);
  std::vector<std::string> positional;
  if (const auto exit = ParseCommandLine(&table, "client", arguments, &positional, 1)) return *exit;
  if (const auto address = CheckServerAddress(positional[0]); !address.ok()) {
    return FailUsage("client", address);
  }
  const auto request = PromptRequest(flags);
  if (!request.ok()) return FailRequest("client", request.status());

  server.address = positional[0];
  const auto generator = MakeRemoteGenerator(
      {.server = server,
       .timeout = timeout > absl::ZeroDuration() ? timeout : absl::InfiniteDuration()});
  if (!generator.ok()) return Fail("client", generator.status());
  v1::GenerateResponse total;
  bool thinking = false;
  const absl::Status status = (*generator)
                                  ->Stream(
                                      *request,
                                      [&](const v1::GenerateResponse& delta) {
                                        MergeOutput(delta, &total);
                                        if (json || delta.choices_size() != 1 || request->n() > 1)
                                          return;
                                        const v1::Choice& choice = delta.choices(0);
                                        if (!choice.reasoning().empty()) {
                                          Print((thinking ? "" : "<think>\n") + choice.reasoning());
                                          thinking = true;
                                        }
                                        if (choice.text().empty()) return;
                                        Print((thinking ? "\n</think>\n\n" : "") + choice.text());
                                        thinking = false;
                                      },
                                      nullptr);
  if (!status.ok()) return Fail("client", status);
  if (json) {
    Print(ResponseJson(total));
  } else {
    Print(request->n() > 1 ? ResponseText(total) : "\n");
  }
  return kExitOk;
}

}  // namespace tessera
