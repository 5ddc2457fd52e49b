// tessera version.
#include "server/version.h"

#include "absl/strings/str_cat.h"
#include "server/commands/command.h"
#include "server/grpc/grpc_server.h"

namespace tessera {

int RunVersion(const Arguments& arguments) {
  OptionTable table("tessera version", "",
                    "Prints the versions of Tessera and of its gRPC library.");
  bool json = false;
  table.Flag("json", &json, "As JSON.");
  std::vector<std::string> positional;
  if (const auto exit = ParseCommandLine(&table, "version", arguments, &positional, 0)) {
    return *exit;
  }
  const std::string version(kVersion);
  if (json) {
    Print(absl::StrCat("{\"version\": \"", version, "\", \"grpc\": \"", GrpcVersion(), "\"}\n"));
  } else {
    Print(absl::StrCat("tessera ", version, " (gRPC ", GrpcVersion(), ")\n"));
  }
  return kExitOk;
}

}  // namespace tessera
