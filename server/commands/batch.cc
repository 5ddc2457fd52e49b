// tessera batch: a file of requests becomes a file of answers.
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <memory>
#include <optional>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "kernels/core/status_macros.h"
#include "server/batch/answerer.h"
#include "server/batch/batch_run.h"
#include "server/commands/cluster_flags.h"
#include "server/commands/command.h"
#include "server/commands/engine_flags.h"
#include "server/grpc/client_channel.h"
#include "server/http/openai/api_client.h"
#include "server/http/openai/api_fields.h"
#include "server/text_generator.h"

namespace tessera {
namespace {

constexpr int64_t kMaxFailuresShown = 10;

struct BatchFlags {
  std::string model;
  std::string server;
  std::string api_key_file;
  std::string defaults = "{}";
  int32_t concurrency = 32;
  absl::Duration timeout = absl::ZeroDuration();
  absl::Duration progress = absl::Seconds(1);
};

void AddOptions(OptionTable* table, BatchFlags* flags) {
  table->Text("model", &flags->model, "Folder of the model that answers, in this process.");
  table->Text("server", &flags->server, "Or the running server that does: http://HOST:PORT.");
  table->Text("api-key-file", &flags->api_key_file,
              "File with the API key, for servers that want one.");
  table->Text("defaults", &flags->defaults,
              "JSON object: members for every body that does not have them, for example "
              "{\"temperature\":0,\"max_tokens\":500}.");
  table->Integer("concurrency", &flags->concurrency, {1, 1024}, "Lines at a time.");
  table->Seconds("timeout", &flags->timeout, 0,
                 "Seconds that a server has for one answer; 0: any time.");
  table->Seconds("progress", &flags->progress, 0,
                 "Seconds between words about the progress on stderr; 0: none.");
}

absl::Status CheckFlags(const BatchFlags& flags) {
  if (flags.model.empty() == flags.server.empty()) {
    return absl::InvalidArgumentError("give --model or --server");
  }
  if (flags.server.empty()) return absl::OkStatus();
  return CheckApiUrl(flags.server);
}

absl::StatusOr<jinja::Value> ReadDefaults(const std::string& text) {
  absl::StatusOr<jinja::Value> defaults = ParseApiBody(text);
  if (defaults.ok()) return defaults;
  return absl::InvalidArgumentError(
      absl::StrCat("--defaults must be a JSON object: ", defaults.status().message()));
}

void PrintProgress(const BatchProgress& now) {
  const int64_t done = now.answered + now.failed;
  const int64_t left = now.lines - now.earlier - done;
  std::string line = absl::StrFormat(
      "%d of %d lines, %d failed, %.1f tokens/s", now.earlier + done, now.lines, now.failed,
      now.seconds > 0 ? static_cast<double>(now.output_tokens) / now.seconds : 0);
  if (done > 0) {
    absl::StrAppendFormat(&line, ", about %.0f s left",
                          now.seconds / static_cast<double>(done) * static_cast<double>(left));
  }
  const bool is_terminal = isatty(STDERR_FILENO) != 0;
  // NOLINTNEXTLINE(cert-err33-c): nothing is lost when nobody reads it
  std::fputs((is_terminal ? absl::StrCat("\r\033[K", line) : line + "\n").c_str(), stderr);
}

std::string Summary(const BatchProgress& end) {
  std::string text = absl::StrFormat("%d lines: %d answered", end.lines, end.answered);
  if (end.earlier > 0) absl::StrAppend(&text, ", ", end.earlier, " by an earlier run");
  if (end.failed > 0) absl::StrAppend(&text, ", ", end.failed, " failed");
  const int64_t left = end.lines - end.earlier - end.answered - end.failed;
  if (left > 0) absl::StrAppend(&text, ", ", left, " left");
  return absl::StrFormat("%s; %d tokens in %.1f s\n", text, end.output_tokens, end.seconds);
}

int RunWith(Answerer* answerer, const BatchFlags& flags, const Arguments& paths,
            const jinja::Dict& defaults) {
  absl::StatusOr<BatchOutput> output = BatchOutput::Open(paths[1]);
  if (!output.ok()) return Fail("batch", output.status());
  int64_t failures = 0;
  BatchOptions options{.input = paths[0],
                       .concurrency = flags.concurrency,
                       .defaults = &defaults,
                       .on_failure = [&failures](int64_t, const std::string& problem) {
                         if (++failures > kMaxFailuresShown) return;
                         LogLast(absl::StrCat("tessera batch: ", problem, "\n"));
                       }};
  if (flags.progress > absl::ZeroDuration()) {
    options.on_progress = &PrintProgress;
    options.period = flags.progress;
  }
  BatchProgress end;
  const absl::Status status = RunBatch(options, answerer, &*output, &end);
  if (options.on_progress && isatty(STDERR_FILENO) != 0) {
    std::fputs("\r\033[K", stderr);  // NOLINT(cert-err33-c)
  }
  if (end.lines > 0) Print(Summary(end));
  if (!status.ok()) return Fail("batch", status);
  return end.failed > 0 ? kExitFailure : kExitOk;
}

int RunRemote(const BatchFlags& flags, const Arguments& paths, const jinja::Dict& defaults) {
  const auto authorization = AuthorizationFor({.api_key_file = flags.api_key_file});
  if (!authorization.ok()) return Fail("batch", authorization.status());
  const bool has_timeout = flags.timeout > absl::ZeroDuration();
  const auto answerer =
      MakeRemoteAnswerer({.url = flags.server,
                          .authorization = *authorization,
                          .timeout = has_timeout ? flags.timeout : absl::InfiniteDuration()});
  if (!answerer.ok()) return FailUsage("batch", answerer.status());
  return RunWith(answerer->get(), flags, paths, defaults);
}

}  // namespace

int RunBatchFile(const Arguments& arguments) {
  OptionTable table("tessera batch", "IN.jsonl OUT.jsonl",
                    "Answers every line of a file once: OpenAI's batch format, or bodies, messages "
                    "or texts alone.\nA run that was ended goes on where it was when it is started "
                    "again with the same files.");
  BatchFlags flags;
  RuntimeOptions options;
  AddOptions(&table, &flags);
  AddChatTemplateOption(&table, &options.chat_template);
  AddModelOptions(&table, &options.engine);
  AddHeadOptions(&table, &options);
  std::vector<std::string> paths;
  if (const auto exit = ParseCommandLine(&table, "batch", arguments, &paths, 2)) return *exit;
  if (const absl::Status status = CheckFlags(flags); !status.ok()) {
    return FailUsage("batch", status);
  }
  const auto defaults = ReadDefaults(flags.defaults);
  if (!defaults.ok()) return FailUsage("batch", defaults.status());
  if (!flags.server.empty()) return RunRemote(flags, paths, defaults->dict());

  if (const absl::Status status = CheckHeadOptions(options.head); !status.ok()) {
    return FailUsage("batch", status);
  }
  InitHeadLogging(options.head);
  CompleteAccess(&options.head.access);
  options.engine.model.model_dir = flags.model;
  const auto runtime = LoadRuntime(options);
  if (!runtime.ok()) return Fail("batch", runtime.status());
  flags.concurrency = std::min(flags.concurrency, options.engine.scheduler.max_queued_requests);
  const auto generator = MakeLocalGenerator(runtime->get());
  const auto answerer = MakeLocalAnswerer(generator.get(), &(*runtime)->model());
  return RunWith(answerer.get(), flags, paths, defaults->dict());
}

}  // namespace tessera
