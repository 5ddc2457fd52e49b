#include "kernels/cpu/operations.h"
#include "kernels/sampling/sample_row.h"

namespace tessera::cpu {

void Sample(const Context& context, const SampleArgs& args) {
  const int64_t rows = args.logits.dim(0);
  context.For(rows, static_cast<double>(rows * args.logits.dim(1)),
              [&](int64_t n) { SampleRow(args, n); });
}

}  // namespace tessera::cpu
