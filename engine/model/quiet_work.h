// Work beside the steps that must not be felt in them.
#ifndef TESSERA_ENGINE_MODEL_QUIET_WORK_H_
#define TESSERA_ENGINE_MODEL_QUIET_WORK_H_

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "kernels/core/mutex.h"

namespace tessera {

// Shared by all threads of the process that do such work. A low priority is not enough: ranks that
// wait for each other yield their core, and work of any priority then takes it, so that the ranks'
// packing would all fall into one step.
class QuietWork {
 public:
  // Runs one piece of the work, a small part of a step, when no other thread does; then rests
  // kRest times as long as the piece took of the processor. Any thread.
  absl::Status Run(absl::FunctionRef<absl::Status()> piece) ABSL_LOCKS_EXCLUDED(turn_);

  static constexpr int kRest = 8;

 private:
  Mutex turn_;
};

}  // namespace tessera

#endif  // TESSERA_ENGINE_MODEL_QUIET_WORK_H_
