// The Gumbel-max draw over the tokens that are left of a row.
#ifndef TESSERA_KERNELS_SAMPLING_RACE_H_
#define TESSERA_KERNELS_SAMPLING_RACE_H_

#include <cstdint>

#include "kernels/sampling/logit_row.h"

namespace tessera::sampling {

// What is left: the descending order up to `last`, without the weights below `min_weight`; the
// largest logit is always left.
struct Field {
  Candidate last;
  double min_weight;
};

struct RaceKey {
  uint64_t seed;
  uint32_t position;
};

// The id with the largest logit + g(seed, position, id) of the field, the lowest one on ties
// (SampleArgs in kernels/ops.h). `row` has a finite largest() and no NaN.
int32_t Race(const LogitRow& row, const Field& field, const RaceKey& key);

}  // namespace tessera::sampling

#endif  // TESSERA_KERNELS_SAMPLING_RACE_H_
