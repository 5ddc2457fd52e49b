// The one summation of all CPU transports, so that their bits agree.
#ifndef TESSERA_PARALLEL_RANK_SUM_H_
#define TESSERA_PARALLEL_RANK_SUM_H_

#include <cstdint>

#include "absl/types/span.h"
#include "kernels/core/dtype.h"

namespace tessera {

// Elements [begin, begin + count) of every input are added in the order of `inputs` in fp32,
// rounded to `dtype` (kF32 or kBF16) once, and stored at the same elements of every output. An
// output may be one of the inputs. All arrays are whole tensors of `dtype`.
struct RankSumArgs {
  absl::Span<const char* const> inputs;
  absl::Span<char* const> outputs;
  int64_t begin = 0;
  int64_t count = 0;
  DType dtype = DType::kF32;
};
void SumRanks(const RankSumArgs& args);

}  // namespace tessera

#endif  // TESSERA_PARALLEL_RANK_SUM_H_
