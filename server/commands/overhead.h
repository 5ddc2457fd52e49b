// What a served request costs beside the work of the model.
#ifndef TESSERA_SERVER_COMMANDS_OVERHEAD_H_
#define TESSERA_SERVER_COMMANDS_OVERHEAD_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "server/model_runtime.h"

namespace tessera {

// Seconds, one value per request: its time as a client sees it, minus the time its steps spent in
// the executor.
struct OverheadResult {
  std::vector<double> per_request;  // one-token requests
  std::vector<double> per_token;    // of a stream: the rest of its time, divided by its tokens
  std::vector<double> steps;        // the executor's part of the one-token requests
  // What no server can beat: the whole time of calls that are answered on the spot, one after the
  // other, and each behind a generation, whose step leaves the caches cold and the cores busy.
  std::vector<double> empty_calls;
  std::vector<double> empty_calls_after_steps;
};

struct OverheadOptions {
  RuntimeOptions runtime;
  int32_t num_requests = 1000;
  int32_t input_len = 4;
  int32_t output_len = 64;  // of the streams, a tenth as many
};

// Serves the model in a process of its own and asks it from this one through gRPC, one request at
// a time: client and server share no thread, as it is for users. Call before there are threads.
absl::StatusOr<OverheadResult> MeasureOverhead(const OverheadOptions& options);

}  // namespace tessera

#endif  // TESSERA_SERVER_COMMANDS_OVERHEAD_H_
