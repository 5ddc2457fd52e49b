// Where top-k and top-p cut the descending order of a row.
#ifndef TESSERA_KERNELS_SAMPLING_NUCLEUS_H_
#define TESSERA_KERNELS_SAMPLING_NUCLEUS_H_

#include <cstdint>

#include "kernels/sampling/logit_row.h"

namespace tessera::sampling {

// The last candidate of the descending order that top_k (0 = all) and then top_p (>= 1: all) leave.
// Exactly the one that sorting and adding up one by one in double would find: wherever rounding
// could decide otherwise, that is what happens. `row` has a finite largest() and no NaN.
Candidate LastKept(const LogitRow& row, int64_t top_k, double top_p);

}  // namespace tessera::sampling

#endif  // TESSERA_KERNELS_SAMPLING_NUCLEUS_H_
