// What is wrong with a server, in plain words, from what it says of itself.
#ifndef TESSERA_SERVER_COMMANDS_DIAGNOSIS_H_
#define TESSERA_SERVER_COMMANDS_DIAGNOSIS_H_

#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "server/commands/metrics_page.h"
#include "tessera/v1/inference.pb.h"

namespace tessera {

struct ObservedServer {
  absl::Status api;  // of asking over gRPC
  std::optional<v1::GetServerInfoResponse> info;
  std::optional<v1::GetLoadResponse> load;
  absl::Status page;  // of the metrics page
  MetricsPage before;
  MetricsPage after;
  absl::Duration between;                     // of the two pages
  std::optional<absl::Duration> clock_ahead;  // of the server's clock before ours
  absl::Time now;
  std::string own_version;
};

struct Finding {
  bool is_problem = false;  // requests suffer now; else: they will, or may
  std::string id;           // "loading", for programs
  std::string what;
  std::string advice;
};

// Problems first.
std::vector<Finding> Diagnose(const ObservedServer& facts);

}  // namespace tessera

#endif  // TESSERA_SERVER_COMMANDS_DIAGNOSIS_H_
