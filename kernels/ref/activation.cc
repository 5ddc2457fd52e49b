#include <algorithm>
#include <cmath>

#include "kernels/ref/element.h"
#include "kernels/ref/ref_ops.h"

namespace tessera::ref {

void SiluAndMul(const SiluAndMulArgs& args) {
  const int64_t width = args.out.dim(1);
  int64_t rows = args.x.dim(0);
  if (!args.num_rows.empty()) rows = std::min<int64_t>(rows, *args.num_rows.as<int32_t>());
  for (int64_t m = 0; m < rows; ++m) {
    for (int64_t i = 0; i < width; ++i) {
      const double gate = Load(args.x, m * args.x.stride0() + i);
      const double up = Load(args.x, m * args.x.stride0() + width + i);
      const double silu = gate / (1.0 + std::exp(-gate));
      Store(args.out, m * args.out.stride0() + i, static_cast<float>(silu * up));
    }
  }
}

}  // namespace tessera::ref
