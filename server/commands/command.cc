#include "server/commands/command.h"

#include <array>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <system_error>

#include "absl/strings/str_cat.h"
#include "server/logging.h"

namespace tessera {
namespace {

std::optional<std::string> Environment(const std::string& name) {
  const char* value = std::getenv(name.c_str());  // NOLINT(concurrency-mt-unsafe): one thread yet
  if (value == nullptr) return std::nullopt;
  return std::string(value);
}

}  // namespace

std::optional<int> ParseOptions(OptionTable* table, const std::string& command,
                                const Arguments& arguments) {
  const absl::Status status = table->Parse({.arguments = arguments, .environment = &Environment});
  if (table->help_requested()) {
    Print(table->Help());
    return kExitOk;
  }
  if (!status.ok()) return FailUsage(command, status);
  if (table->print_config_requested()) {
    Print(table->PrintConfig());
    return kExitOk;
  }
  return std::nullopt;
}

std::optional<int> ParseCommandLine(OptionTable* table, const std::string& command,
                                    const Arguments& arguments,
                                    std::vector<std::string>* positional, size_t num_positional) {
  table->Positional(positional);
  if (const auto exit = ParseOptions(table, command, arguments)) return exit;
  if (positional->size() < num_positional) {
    return FailUsage(command, absl::InvalidArgumentError("an argument is missing"));
  }
  if (positional->size() > num_positional) {
    return FailUsage(command, absl::InvalidArgumentError(absl::StrCat(
                                  "unexpected argument \"", (*positional)[num_positional], "\"")));
  }
  return std::nullopt;
}

int Fail(const std::string& command, const absl::Status& status) {
  LogLast(absl::StrCat("tessera ", command, ": ", status.message(), "\n"));
  return kExitFailure;
}

void FailAtOnce(const std::string& command, const absl::Status& status) {
  std::_Exit(Fail(command, status));
}

int FailUsage(const std::string& command, const absl::Status& status) {
  LogLast(absl::StrCat("tessera ", command, ": ", status.message(), "\nTry \"tessera ", command,
                       " --help\".\n"));
  return kExitUsage;
}

int FailRequest(const std::string& command, const absl::Status& status) {
  return absl::IsInvalidArgument(status) ? FailUsage(command, status) : Fail(command, status);
}

void Print(const std::string& text) {
  const size_t written = std::fwrite(text.data(), 1, text.size(), stdout);
  if (std::fflush(stdout) == 0 && written == text.size()) return;
  // Whoever reads the output must not take a part of it for the whole.
  LogLast(absl::StrCat("tessera: cannot write the output: ", std::generic_category().message(errno),
                       "\n"));
  std::_Exit(kExitFailure);
}

std::string ReadStdin() {
  std::string text;
  std::array<char, 1 << 16> buffer;
  while (true) {
    const size_t count = std::fread(buffer.data(), 1, buffer.size(), stdin);
    if (count == 0) return text;
    text.append(buffer.data(), count);
  }
}

}  // namespace tessera
