// The reference operations behind a late queue and memory the host cannot touch: what a GPU does to
// code that forgets to synchronise, on a machine without one. For tests.
#ifndef TESSERA_KERNELS_QUEUED_QUEUED_OPS_H_
#define TESSERA_KERNELS_QUEUED_QUEUED_OPS_H_

#include <memory>

#include "kernels/ops.h"

namespace tessera {

std::unique_ptr<Ops> CreateQueuedOps(const OpsOptions& options);

}  // namespace tessera

#endif  // TESSERA_KERNELS_QUEUED_QUEUED_OPS_H_
