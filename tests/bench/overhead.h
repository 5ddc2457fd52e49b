// What a served request costs beside the work of the model.
#ifndef TESSERA_TESTS_BENCH_OVERHEAD_H_
#define TESSERA_TESTS_BENCH_OVERHEAD_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "server/model_runtime.h"

namespace tessera {

// Seconds, one value per request: its time minus the time its steps spent in the executor.
struct OverheadResult {
  // One-token requests: the time from the request's bytes into the server's socket until the last
  // byte of the answer out of it.
  std::vector<double> at_socket;
  // The same as a program sees them that uses gRPC: with the work of its library and the waking of
  // its threads.
  std::vector<double> at_client;
  std::vector<double> per_token;  // of a stream, at the client: the rest of its time, by its tokens
  std::vector<double> steps;      // the executor's part of the one-token requests at the socket
  // What no server can beat at a client: the whole time of calls that are answered on the spot, one
  // after the other, and each behind a generation, whose step leaves caches cold and cores busy.
  std::vector<double> empty_calls;
  std::vector<double> empty_calls_after_steps;
};

struct OverheadOptions {
  RuntimeOptions runtime;
  int32_t num_requests = 1000;
  int32_t input_len = 4;
  int32_t output_len = 64;  // of the streams, a tenth as many
  // Before each request: long enough, and the server has to wake up first.
  absl::Duration pause = absl::ZeroDuration();
};

// Serves the model in a process of its own and asks it from this one, one request at a time: client
// and server share no thread, as it is for users. Call before there are threads.
absl::StatusOr<OverheadResult> MeasureOverhead(const OverheadOptions& options);

}  // namespace tessera

#endif  // TESSERA_TESTS_BENCH_OVERHEAD_H_
