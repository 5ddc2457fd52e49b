#include "server/commands/diagnosis.h"

#include <algorithm>
#include <cmath>
#include <string_view>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace tessera {
namespace {

constexpr double kNearlyAll = 0.9;

class Diagnosis {
 public:
  explicit Diagnosis(const ObservedServer& facts) : facts_(facts), page_(facts.after) {}

  std::vector<Finding> Make() {
    LookAtConnection();
    if (!page_.empty()) {
      LookAtReadiness();
      LookAtSteps();
      LookAtWork();
      LookAtRanks();
      LookAtProcess();
    } else if (facts_.load) {
      LookAtLoad();
    }
    LookAtCertificate();
    LookAtClocks();
    std::ranges::stable_sort(findings_, [](const Finding& a, const Finding& b) {
      return a.is_problem && !b.is_problem;
    });
    return std::move(findings_);
  }

 private:
  void Problem(std::string id, std::string what, std::string advice) {
    findings_.push_back({true, std::move(id), std::move(what), std::move(advice)});
  }
  void Warning(std::string id, std::string what, std::string advice) {
    findings_.push_back({false, std::move(id), std::move(what), std::move(advice)});
  }

  double Now(const std::string& name) const { return page_.Value(name).value_or(0); }
  double Limit(const std::string& option) const {
    return page_.Value("tessera_limit", "limit", option).value_or(0);
  }
  bool IsUnready(const std::string& reason) const {
    return page_.Value("tessera_unready", "reason", reason).value_or(0) > 0;
  }

  // How much a counter grew between the two pages.
  template <typename Predicate>
  double Growth(const std::string& name, const Predicate& wanted) const {
    return page_.Sum(name, wanted) - facts_.before.Sum(name, wanted);
  }
  double Growth(const std::string& name) const {
    return Growth(name, [](const MetricsPage::Labels&) { return true; });
  }

  void LookAtConnection() {
    const absl::Status& api = facts_.api;
    const bool says_why = !page_.empty() && page_.Value("tessera_ready").value_or(1) == 0;
    if (absl::IsUnauthenticated(api) || absl::IsPermissionDenied(api)) {
      Warning("access", absl::StrCat("it does not tell this client about itself: ", api.message()),
              "give --api-key-file a key with the scope metrics or admin");
    } else if (!api.ok() && !says_why) {
      Problem("unreachable", std::string(api.message()),
              page_.empty()
                  ? "is the process there, is the address right, does a firewall shut the "
                    "port? Its log's last line says why it ended"
                  : "the metrics page answers, so the process lives: is the port right, does "
                    "the server want TLS (--tls, --ca), does a firewall shut it?");
    }
    if (!facts_.page.ok()) {
      Warning("no_metrics",
              absl::StrCat("its metrics page cannot be read: ", facts_.page.message()),
              "say where it is with --metrics HOST:PORT; without it little can be said");
    } else if (page_.empty()) {
      Warning("no_metrics", "its metrics page has no metric that begins with tessera_",
              "is this another program's port, or does the server run with --metrics-prefix?");
    }
    if (facts_.info && facts_.info->version() != facts_.own_version) {
      Warning("version",
              absl::StrCat("it runs version ", facts_.info->version(), ", this is ",
                           facts_.own_version),
              "use the same version for both; what is said below may miss something");
    }
  }

  void LookAtReadiness() {
    if (page_.Value("tessera_engine_up").value_or(1) == 0 || IsUnready("failed")) {
      Problem("failed", "its engine failed: every call ends with UNAVAILABLE",
              "restart it; the log names the rank and the operation "
              "(docs/runbook.md#tesseraenginefailed)");
    }
    if (IsUnready("loading")) {
      Problem("loading",
              absl::StrFormat("it is loading: %.0f %% of the weights are there",
                              100 * Now("tessera_weights_loaded_ratio")),
              "wait; if the number stands still, a node has not joined or the disk is slow "
              "(docs/runbook.md#tesseraloadinglong)");
    }
    if (IsUnready("draining")) {
      Problem("draining", "it is draining: somebody told it to stop, and it takes no new requests",
              "send requests to another server; it ends when the running ones have");
    }
    if (IsUnready("saturated")) {
      Problem("saturated",
              absl::StrFormat(
                  "it is saturated: %.0f calls are open of at most %.0f, %.0f requests wait",
                  Now("tessera_active_requests"), Limit("max-concurrent-requests"),
                  Now("tessera_num_requests_waiting")),
              "add servers, or let clients come back later as RetryInfo says "
              "(docs/runbook.md#tesserarefusing)");
    }
    if (IsUnready("not_accepting")) {
      Problem("not_accepting", "its gRPC port takes no connections",
              "look at the open files below, and restart it (docs/runbook.md#tesseranotready)");
    }
  }

  void LookAtSteps() {
    constexpr double kLongStep = 10;
    const double age = Now("tessera_step_age_seconds");
    if (age <= kLongStep) return;
    Problem("stalled", absl::StrFormat("it has work, and no step has ended for %.0f s", age),
            "a rank hangs or is stopped; it ends by itself after --step-timeout "
            "(docs/runbook.md#tesserastepstalled)");
  }

  void LookAtWork() {
    constexpr double kMuch = 0.05;
    LookAtQueue();
    const double usage = Now("tessera_kv_cache_usage_ratio");
    LookAtKv(usage, Growth("tessera_num_preemptions_total"));
    const double all = Growth("tessera_requests_total", [](const MetricsPage::Labels& labels) {
      const std::string& method = labels.at("method");
      return method.find("Get") != 0 && method.find("okenize") == std::string::npos;
    });
    const double refused = Growth("tessera_rejected_total", [](const MetricsPage::Labels& labels) {
      return labels.at("reason") == "overloaded";
    });
    if (all > 0 && refused / all > kMuch && !IsUnready("saturated")) {
      Warning(
          "refusing",
          absl::StrFormat("%.0f of the last %.0f requests were refused: overloaded", refused, all),
          "add servers (docs/runbook.md#tesserarefusing)");
    }
    const double failed = Growth("tessera_requests_total", [](const MetricsPage::Labels& labels) {
      const std::string& code = labels.at("code");
      return code == "INTERNAL" || code == "UNKNOWN" || code == "DATA_LOSS";
    });
    if (failed > 0) {
      Problem("errors", absl::StrFormat("%.0f requests just failed by the server's fault", failed),
              "its log has a line for each (docs/runbook.md#tesseraerrorsburnfast)");
    }
  }

  void LookAtQueue() {
    constexpr double kManyBatches = 4;
    constexpr double kMost = 0.5;  // of those who wait
    const double waiting = Now("tessera_num_requests_waiting");
    const double places = Limit("max-queued-requests");
    const double batch = Limit("max-num-seqs");
    const bool is_long = places > 0 && waiting > kNearlyAll * places;
    if (waiting == 0 || (!is_long && waiting <= kManyBatches * batch)) return;
    const double ended = Growth("tessera_request_success_total");
    const auto most = LongestBacklog();
    const bool is_of_one = most && most->second > kMost * waiting;
    const double pace = ended / std::max(1e-3, absl::ToDoubleSeconds(facts_.between));
    Problem("queue",
            absl::StrCat(absl::StrFormat("%.0f requests wait, for a batch of %.0f; %.0f may",
                                         waiting, batch, places),
                         ended > 0 ? absl::StrFormat("; at the present pace that is %.0f s of work",
                                                     waiting / pace)
                                   : "; none has ended meanwhile",
                         is_of_one ? absl::StrFormat("; %.0f of them are the tenant \"%s\"'s",
                                                     most->second, most->first)
                                   : ""),
            is_of_one ? "others are served before its queue; limit its requests-per-second, or its "
                        "weight, in "
                        "the key file (docs/user-guide.md#api-keys)"
                      : "give requests deadlines, so that what cannot be answered in time is "
                        "refused at once; add "
                        "servers (docs/runbook.md#tesserarefusing)");
  }

  // The tenant who has most waiting, and how many requests.
  std::optional<std::pair<std::string, double>> LongestBacklog() const {
    std::optional<std::pair<std::string, double>> most;
    for (const auto& [labels, value] : page_.Series("tessera_tenant_waiting_requests")) {
      if (!most || value > most->second) most = {labels.at("tenant"), value};
    }
    return most;
  }

  void LookAtKv(double usage, double preemptions) {
    constexpr double kFull = 0.95;
    if (usage <= kFull) return;
    const std::string full = absl::StrFormat("its KV cache is full (%.0f %%)", 100 * usage);
    constexpr char kAdvice[] =
        "lower --max-num-seqs, give it more with --kv-cache-memory, or add servers "
        "(docs/runbook.md#tesserakvthrashing)";
    if (preemptions > 0) {
      Problem(
          "kv_full",
          absl::StrFormat("%s, and %.0f sequences just lost their blocks and are computed again",
                          full, preemptions),
          kAdvice);
    } else {
      Warning("kv_full", absl::StrCat(full, ": new requests wait for running ones to end"),
              kAdvice);
    }
  }

  // Without a page.
  void LookAtLoad() {
    const v1::GetLoadResponse& load = *facts_.load;
    const double usage = load.kv_blocks_total() > 0
                             ? static_cast<double>(load.kv_blocks_used()) / load.kv_blocks_total()
                             : 0;
    LookAtKv(usage, 0);
    if (!facts_.info) return;
    if (load.active_requests() >= facts_.info->max_concurrent_requests()) {
      Problem("saturated",
              absl::StrCat("it is saturated: ", load.active_requests(),
                           " calls are open of at most ", facts_.info->max_concurrent_requests()),
              "add servers, or let clients come back later (docs/runbook.md#tesserarefusing)");
    } else if (!facts_.info->ready()) {
      Problem("not_ready", "it says that it is not ready", "its metrics page would say why");
    }
  }

  void LookAtRanks() {
    constexpr double kSlow = 1.25;
    constexpr double kBusy = 0.05;  // of the time: less says nothing
    double sum = 0;
    double most = 0;
    std::string slowest;
    const auto& series = page_.Series("tessera_rank_compute_seconds_total");
    for (const auto& [labels, value] : series) {
      const std::string& rank = labels.at("rank");
      const double grown =
          value -
          facts_.before.Value("tessera_rank_compute_seconds_total", "rank", rank).value_or(value);
      sum += grown;
      if (grown > most) {
        most = grown;
        slowest = rank;
      }
    }
    if (series.size() < 2) return;
    const double mean = sum / static_cast<double>(series.size());
    if (mean < kBusy * absl::ToDoubleSeconds(facts_.between) || most <= kSlow * mean) return;
    Warning(
        "slow_rank",
        absl::StrFormat("rank %s computes %.0f %% longer than the mean, and the others wait for it",
                        slowest, 100 * (most / mean - 1)),
        "a throttled GPU, cores that something else uses, or uneven experts "
        "(docs/runbook.md#tesseraslowrank)");
  }

  void LookAtProcess() {
    constexpr double kMany = 0.8;
    const double open = Now("process_open_fds");
    const double most = Now("process_max_fds");
    if (most > 0 && open > kMany * most) {
      Warning("open_files",
              absl::StrFormat("%.0f of %.0f files and connections are open", open, most),
              "raise nofile, or close idle connections (docs/runbook.md#tesseraopenfiles)");
    }
    if (Growth("tessera_log_lines_dropped_total") > 0) {
      Warning("log", "nobody reads its log in time, and lines are lost",
              "restart the log collector (docs/runbook.md#tesseraloglinesdropped)");
    }
    if (Growth("tessera_slow_reader_evictions_total") > 0) {
      Warning("slow_readers", "it ends streams of clients that do not read",
              "look at these clients (docs/runbook.md#tesseraslowreaders)");
    }
  }

  void LookAtCertificate() {
    constexpr absl::Duration kSoon = absl::Hours(14 * 24);
    const auto at = page_.Value("tessera_certificate_expiry_timestamp_seconds");
    if (!at || !std::isfinite(*at)) return;
    const absl::Duration left = absl::UnixEpoch() + absl::Seconds(*at) - facts_.now;
    const auto days = static_cast<double>(absl::ToInt64Hours(left)) / 24;
    constexpr char kAdvice[] = "put a new certificate in its place; it is read without a restart";
    if (left <= absl::ZeroDuration()) {
      Problem("certificate", "its certificate has expired: clients refuse it", kAdvice);
    } else if (left < kSoon) {
      Warning("certificate", absl::StrFormat("its certificate expires in %.1f days", days),
              kAdvice);
    }
  }

  void LookAtClocks() {
    constexpr absl::Duration kApart = absl::Seconds(5);
    if (!facts_.clock_ahead || absl::AbsDuration(*facts_.clock_ahead) < kApart) return;
    const absl::Duration apart = absl::AbsDuration(*facts_.clock_ahead);
    Warning(
        "clock",
        absl::StrCat("its clock is ", absl::FormatDuration(absl::Trunc(apart, absl::Seconds(1))),
                     *facts_.clock_ahead > absl::ZeroDuration() ? " ahead of" : " behind",
                     " this machine's"),
        "let both follow NTP: certificates and logs go by the clock");
  }

  const ObservedServer& facts_;
  const MetricsPage& page_;
  std::vector<Finding> findings_;
};

}  // namespace

std::vector<Finding> Diagnose(const ObservedServer& facts) { return Diagnosis(facts).Make(); }

}  // namespace tessera
