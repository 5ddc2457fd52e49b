// The ceiling of everything that streams weights.
#ifndef TESSERA_KERNELS_CORE_READ_BANDWIDTH_H_
#define TESSERA_KERNELS_CORE_READ_BANDWIDTH_H_

#include "absl/status/statusor.h"

namespace tessera {

// Bytes per second that `num_threads` threads read together from memory that no cache holds; takes
// 1 GiB and a second or less. RESOURCE_EXHAUSTED when there is no such memory.
absl::StatusOr<double> MeasureReadBandwidth(int num_threads);

}  // namespace tessera

#endif  // TESSERA_KERNELS_CORE_READ_BANDWIDTH_H_
