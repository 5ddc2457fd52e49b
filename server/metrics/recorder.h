// Counts what happens and renders it for Prometheus.
#ifndef TESSERA_SERVER_METRICS_RECORDER_H_
#define TESSERA_SERVER_METRICS_RECORDER_H_

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "engine/engine.h"
#include "engine/types.h"

namespace tessera {

// "stop", "length", "tool_calls", "abort".
std::string_view FinishReasonName(FinishReason reason);
// "OK", "INVALID_ARGUMENT", … as gRPC spells them.
std::string_view StatusCodeName(absl::StatusCode code);

struct MetricsOptions {
  std::string model_name;                      // label of every series; empty: none
  std::string prefix = "tessera";              // of every name, see ShownName
  std::function<int64_t()> log_lines_dropped;  // may be empty
};

// What a tenant did since the start, and has open.
struct TenantFacts {
  std::string name;
  int64_t open = 0;
  int64_t requests = 0;
  int64_t prompt_tokens = 0;
  int64_t generation_tokens = 0;
  std::map<std::string, int64_t> refused;  // by limit
};

// Thread-safe. Nothing blocks for long: the engine thread may call it.
class MetricsRecorder {
 public:
  explicit MetricsRecorder(MetricsOptions options = {});
  ~MetricsRecorder();

  // One finished call of the service. Both arguments come from closed sets; the name of the method
  // outlives the recorder.
  void CountCall(std::string_view method, absl::StatusCode code);
  // A generation that never reached the queue.
  void CountRejected(absl::StatusCode code);
  // A generation that ended early. had_output: after its first token.
  void CountCancelled(bool had_output);
  void CountFinish(FinishReason reason);
  // `reason`: an index of kAuthFailureReasons.
  void CountAuthFailure(size_t reason);
  void CountSlowReaderEviction();
  void AddStreamBufferBytes(int64_t delta);

  void ObserveFirstToken(absl::Duration since_arrival);
  void ObserveInterToken(absl::Duration interval);
  // A request that ended OK.
  void ObserveRequest(const FinishInfo& info);
  void ObserveStep(const StepEvent& step);

  void SetWeightsLoaded(double ratio);
  // Values read when the page is rendered. `engine` must outlive the recorder or be detached by
  // nullptr.
  struct Sources {
    const Engine* engine = nullptr;
    std::function<int32_t()> active_requests;        // may be empty
    std::function<int32_t()> large_requests_queued;  // may be empty
    int32_t block_size = 0;                          // tokens per KV block
    GroupFacts group;
    std::map<std::string, double> limits;  // by the option that sets them, in the option's unit
  };
  void Attach(Sources sources);

  // Asked when the page is rendered: one of kUnreadyReasons, or empty when the server is ready.
  void SetReadiness(std::function<std::string_view()> readiness);
  // Asked likewise; until it is set nothing ever expires.
  void SetCertificateExpiry(std::function<absl::Time()> expiry);

  // Asked likewise; until it is set there are no tenants. Their names come from a closed set.
  void SetTenants(std::function<std::vector<TenantFacts>()> tenants);

  // Prometheus text format.
  std::string Render() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace tessera

#endif  // TESSERA_SERVER_METRICS_RECORDER_H_
