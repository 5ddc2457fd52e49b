// Who is served first.
#ifndef TESSERA_ENGINE_SCHEDULER_FAIRNESS_H_
#define TESSERA_ENGINE_SCHEDULER_FAIRNESS_H_

#include <cstdint>

#include "absl/time/time.h"
#include "engine/scheduler/sequence.h"

namespace tessera {

// A request of priority p gains one class per `ageing`, so at time t it counts as
// p - (t - queued) / ageing. The order of two such values does not depend on t: it is that of
// queued + p * ageing. A fixed key therefore ages everyone, bounds waiting (nothing queued later
// than p * ageing after a request overtakes it, whatever its priority >= 0), and puts a preempted
// request back to the head of its class, since whoever still waits there came later.
struct ServiceOrder {
  absl::Time key;
  SequenceId id{};  // ties: in order of arrival

  static ServiceOrder Of(const Sequence& sequence, absl::Duration ageing) {
    return {sequence.queued_at() + sequence.request().priority * ageing, sequence.id()};
  }
  friend bool operator<(const ServiceOrder& a, const ServiceOrder& b) {
    return a.key != b.key ? a.key < b.key : a.id < b.id;
  }
};

}  // namespace tessera

#endif  // TESSERA_ENGINE_SCHEDULER_FAIRNESS_H_
