// What the commands share: their list, and how they read arguments and end.
#ifndef TESSERA_SERVER_COMMANDS_COMMAND_H_
#define TESSERA_SERVER_COMMANDS_COMMAND_H_

#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "server/option_table.h"

namespace tessera {

// Exit codes of every command.
inline constexpr int kExitOk = 0;
inline constexpr int kExitFailure = 1;
inline constexpr int kExitUsage = 2;

using Arguments = std::vector<std::string>;  // behind the command's name

int RunServe(const Arguments& arguments);
int RunGenerate(const Arguments& arguments);
int RunScore(const Arguments& arguments);
int RunChat(const Arguments& arguments);
int RunClient(const Arguments& arguments);
int RunTokenize(const Arguments& arguments);
int RunCheck(const Arguments& arguments);
int RunBatchFile(const Arguments& arguments);
int RunBench(const Arguments& arguments);
int RunDoctor(const Arguments& arguments);
int RunPlan(const Arguments& arguments);
int RunKeys(const Arguments& arguments);
int RunVersion(const Arguments& arguments);
int RunWorker(const Arguments& arguments);

// Fills the table's targets. Set when the command has nothing left to do: the exit code after
// --help, --print-config or a usage error. `num_positional` arguments are required.
std::optional<int> ParseCommandLine(OptionTable* table, const std::string& command,
                                    const Arguments& arguments,
                                    std::vector<std::string>* positional, size_t num_positional);

// Prints the error and tells the exit code.
int Fail(const std::string& command, const absl::Status& status);
int FailUsage(const std::string& command, const absl::Status& status);
// Of a request that was made from the options: InvalidArgument is a wrong command line.
int FailRequest(const std::string& command, const absl::Status& status);
// Ends the process as it is: for commands with ranks, which may hang and would be waited for.
[[noreturn]] void FailAtOnce(const std::string& command, const absl::Status& status);

// Writes to stdout and flushes.
void Print(const std::string& text);
// A whole stream or file of text.
std::string ReadStdin();

}  // namespace tessera

#endif  // TESSERA_SERVER_COMMANDS_COMMAND_H_
