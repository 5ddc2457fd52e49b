// Sampling of one row on a CPU: the contract of SampleArgs (kernels/ops.h), fast enough for a
// vocabulary of 152 thousand tokens.
#ifndef TESSERA_KERNELS_SAMPLING_SAMPLE_ROW_H_
#define TESSERA_KERNELS_SAMPLING_SAMPLE_ROW_H_

#include "kernels/ops.h"

namespace tessera {

// Samples row `n`; the views of `args` are ordinary host memory. Rows are independent: different
// threads may take different rows. The result does not depend on the other rows.
void SampleRow(const SampleArgs& args, int64_t n);

}  // namespace tessera

#endif  // TESSERA_KERNELS_SAMPLING_SAMPLE_ROW_H_
