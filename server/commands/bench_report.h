// What a measured load is told as: a few lines of text, or a JSON object.
#ifndef TESSERA_SERVER_COMMANDS_BENCH_REPORT_H_
#define TESSERA_SERVER_COMMANDS_BENCH_REPORT_H_

#include <cstdint>
#include <optional>
#include <string>

#include "absl/time/time.h"
#include "server/commands/load_plan.h"
#include "server/commands/workload.h"

namespace tessera {

// What a user still calls quick. A request is good when it ends well, its first token comes in
// time, and so, on average, do its others.
struct Objective {
  std::optional<absl::Duration> first_token;
  std::optional<absl::Duration> inter_token;

  bool is_set() const { return first_token.has_value() || inter_token.has_value(); }
  bool IsMetBy(const RequestSample& sample) const;
};

struct BenchReport {
  std::string mode;
  LoadShape shape;
  WorkloadResult result;
  bool is_open = false;
  Objective objective;
  double limit = 0;  // output tokens per second; 0: unknown
};

// At concurrency 1 of a closed loop the decode speed alone, otherwise output tokens over the whole
// time.
double TokensPerSecond(const BenchReport& report);

std::string BenchReportText(const BenchReport& report);
// Times in seconds.
std::string BenchReportJson(const BenchReport& report);

}  // namespace tessera

#endif  // TESSERA_SERVER_COMMANDS_BENCH_REPORT_H_
