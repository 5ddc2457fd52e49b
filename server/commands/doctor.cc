// tessera doctor: what is wrong with a running server, and what to do about it.
#include <memory>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/time/clock.h"
#include "kernels/core/monotonic_time.h"
#include "kernels/core/status_macros.h"
#include "server/commands/command.h"
#include "server/commands/diagnosis.h"
#include "server/commands/target_flags.h"
#include "server/grpc/remote_generator.h"
#include "server/http/http_client.h"
#include "server/json_text.h"
#include "server/version.h"

namespace tessera {
namespace {

constexpr int kExitWarnings = 3;
constexpr absl::Duration kTimeout = absl::Seconds(5);
constexpr int kDefaultMetricsPort = 9090;

struct DoctorFlags {
  ServerTarget server;
  std::string metrics;  // HOST:PORT
  absl::Duration watch = absl::Seconds(2);
  bool json = false;
};

struct FetchedPage {
  MetricsPage page;
  std::optional<absl::Duration> clock_ahead;
};

// HTTP dates have whole seconds: what lies within one is no difference.
std::optional<absl::Duration> ClockAhead(const std::string& date, absl::Time begun,
                                         absl::Time ended) {
  absl::Time there;
  if (!absl::ParseTime("%a, %d %b %Y %H:%M:%S GMT", date, &there, nullptr)) return std::nullopt;
  if (there > ended) return there - ended;
  if (there + absl::Seconds(1) < begun) return there + absl::Seconds(1) - begun;
  return absl::ZeroDuration();
}

absl::StatusOr<FetchedPage> Fetch(HttpClient* client) {
  const absl::Time begun = absl::Now();
  std::string body;
  HttpAnswerHead answer;
  RETURN_IF_ERROR(client->Call({.path = "/metrics", .timeout = kTimeout},
                               [&](const HttpAnswerHead& head, std::string_view bytes) {
                                 answer = head;
                                 body.append(bytes);
                                 return absl::OkStatus();
                               }));
  if (answer.status != 200) {
    return absl::UnavailableError(
        absl::StrCat("HTTP ", answer.status, " from ", client->url().authority, "/metrics"));
  }
  return FetchedPage{.page = MetricsPage::Parse(body),
                     .clock_ahead = ClockAhead(answer.date, begun, absl::Now())};
}

// Two pages with some time between them.
absl::Status ReadPages(const DoctorFlags& flags, ObservedServer* facts) {
  ASSIGN_OR_RETURN(HttpUrl url, ParseHttpUrl("http://" + flags.metrics));
  HttpClient client(std::move(url));
  ASSIGN_OR_RETURN(FetchedPage before, Fetch(&client));
  const absl::Time first = MonotonicNow();
  absl::SleepFor(flags.watch);
  ASSIGN_OR_RETURN(FetchedPage after, Fetch(&client));
  facts->between = MonotonicNow() - first;
  if (after.page.Series("tessera_build_info").empty()) return absl::OkStatus();
  facts->before = std::move(before.page);
  facts->after = std::move(after.page);
  facts->clock_ahead = after.clock_ahead;
  return absl::OkStatus();
}

ObservedServer Look(const DoctorFlags& flags) {
  ObservedServer facts{.own_version = std::string(kVersion)};
  facts.page = ReadPages(flags, &facts);
  facts.now = absl::Now();
  auto info = AskServerInfo(flags.server, kTimeout);
  if (!info.ok()) {
    facts.api = info.status();
    return facts;
  }
  facts.info = *std::move(info);
  auto load = AskLoad(flags.server, kTimeout);
  facts.api = load.status();
  if (load.ok()) facts.load = *std::move(load);
  return facts;
}

std::string Summary(const ObservedServer& facts) {
  std::vector<std::string> parts;
  if (facts.load) {
    const v1::GetLoadResponse& load = *facts.load;
    const double used =
        load.kv_blocks_total() > 0 ? 100.0 * load.kv_blocks_used() / load.kv_blocks_total() : 0;
    parts.push_back(absl::StrFormat("%d running, %d waiting, KV cache %.0f %% in use",
                                    load.num_running(), load.num_waiting(), used));
  }
  if (facts.info) {
    const absl::Duration up = absl::Seconds(static_cast<int64_t>(facts.info->uptime_seconds()));
    parts.push_back(
        absl::StrCat("version ", facts.info->version(), ", up ", absl::FormatDuration(up)));
  }
  return absl::StrJoin(parts, ", ");
}

std::string ReportText(const DoctorFlags& flags, const ObservedServer& facts,
                       const std::vector<Finding>& findings) {
  const std::string summary = Summary(facts);
  std::string text = absl::StrCat(flags.server.address, summary.empty() ? "" : ": ", summary, "\n");
  for (const Finding& finding : findings) {
    absl::StrAppend(&text, finding.is_problem ? "PROBLEM  " : "warning  ", finding.what,
                    "\n         What to do: ", finding.advice, ".\n");
  }
  if (findings.empty()) absl::StrAppend(&text, "Nothing is wrong.\n");
  return text;
}

std::string ReportJson(const DoctorFlags& flags, const ObservedServer& facts,
                       const std::vector<Finding>& findings) {
  std::vector<std::string> items;
  items.reserve(findings.size());
  for (const Finding& finding : findings) {
    items.push_back(absl::StrCat("{\"severity\": \"", finding.is_problem ? "problem" : "warning",
                                 "\", \"id\": ", JsonQuoted(finding.id),
                                 ", \"what\": ", JsonQuoted(finding.what),
                                 ", \"advice\": ", JsonQuoted(finding.advice), "}"));
  }
  return absl::StrCat("{\"address\": ", JsonQuoted(flags.server.address),
                      ", \"summary\": ", JsonQuoted(Summary(facts)), ", \"findings\": [",
                      absl::StrJoin(items, ", "), "]}\n");
}

// The metrics of a server are on its machine, unless somebody says otherwise.
std::string DefaultMetrics(const std::string& address) {
  const size_t colon = address.rfind(':');
  const bool is_socket = address.rfind("unix:", 0) == 0;
  return absl::StrCat(is_socket ? "127.0.0.1" : address.substr(0, colon), ":", kDefaultMetricsPort);
}

}  // namespace

int RunDoctor(const Arguments& arguments) {
  OptionTable table("tessera doctor", "HOST:PORT|unix:PATH",
                    "Says in plain words what is wrong with a running server, and what to do.\n"
                    "Exit codes: 0 nothing is wrong, 1 requests suffer now, 3 warnings only.");
  DoctorFlags flags;
  table.Flag("json", &flags.json, "Print the findings as JSON.");
  table.Text("metrics", &flags.metrics,
             "HOST:PORT of the server's metrics page; empty: port 9090 of the same host.");
  table.Seconds("watch", &flags.watch, 0,
                "How long to watch the counters, in seconds: slow ranks and errors show while they "
                "work.");
  AddTargetOptions(&table, &flags.server);
  std::vector<std::string> positional;
  if (const auto exit = ParseCommandLine(&table, "doctor", arguments, &positional, 1)) return *exit;
  flags.server.address = positional[0];
  if (const absl::Status status = CheckServerAddress(positional[0]); !status.ok()) {
    return FailUsage("doctor", status);
  }
  if (flags.metrics.empty()) flags.metrics = DefaultMetrics(positional[0]);
  if (!ParseHttpUrl("http://" + flags.metrics).ok()) {
    return FailUsage("doctor", absl::InvalidArgumentError("--metrics must be HOST:PORT"));
  }
  const ObservedServer facts = Look(flags);
  const std::vector<Finding> findings = Diagnose(facts);
  Print(flags.json ? ReportJson(flags, facts, findings) : ReportText(flags, facts, findings));
  if (findings.empty()) return kExitOk;
  return findings.front().is_problem ? kExitFailure : kExitWarnings;
}

}  // namespace tessera
