#include "server/grpc/drain.h"

#include <algorithm>
#include <string>

#include "absl/strings/str_cat.h"
#include "kernels/core/monotonic_time.h"
#include "server/logging.h"

namespace tessera {
namespace {

// For clients that still read when the time for the requests themselves is over.
constexpr absl::Duration kLastWrites = absl::Seconds(2);
// For connections: idle clients need not be waited for, gRPC would wait for each to answer.
constexpr absl::Duration kGoodbye = absl::Milliseconds(100);

}  // namespace

void DrainServer(const DrainOptions& options, InferenceContext* context, GrpcServer* server) {
  context->ready = false;
  server->SetServing(false);
  context->gate.Sleep(options.delay);
  const absl::Time begun = context->clock.Now();
  context->gate.Close(options.timeout);
  // Who is in a hurry before the gate has closed has not cancelled the calls that came since.
  const absl::Duration timeout = context->gate.InHurry() ? absl::ZeroDuration() : options.timeout;
  const auto left = [&] {
    return std::max(timeout - (context->clock.Now() - begun), absl::ZeroDuration());
  };
  const absl::Status drained = context->engine->Drain(MonotonicNow() + left());
  if (!drained.ok()) LogWarning(std::string(drained.message()));
  // The engine is done, the clients may have to read the last messages yet.
  if (!context->gate.AwaitNoCalls(std::max(left(), kLastWrites))) {
    LogWarning("some clients did not read their answers to the end");
  }
  server->Shutdown(MonotonicNow() + kGoodbye);
}

}  // namespace tessera
