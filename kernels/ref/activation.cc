#include <algorithm>
#include <cmath>

#include "kernels/ref/ref_ops.h"

namespace tessera::ref {

void SiluAndMul(const SiluAndMulArgs& args) {
  const int64_t width = args.out.dim(1);
  int64_t rows = args.x.dim(0);
  if (!args.num_rows.empty()) rows = std::min<int64_t>(rows, *args.num_rows.as<int32_t>());
  for (int64_t m = 0; m < rows; ++m) {
    const float* gate = args.x.as<float>() + m * args.x.stride0();
    const float* up = gate + width;
    for (int64_t i = 0; i < width; ++i) {
      const double silu = gate[i] / (1.0 + std::exp(-static_cast<double>(gate[i])));
      args.out.as<float>()[m * args.out.stride0() + i] = static_cast<float>(silu * up[i]);
    }
  }
}

}  // namespace tessera::ref
