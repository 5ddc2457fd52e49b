#include <cmath>

#include "kernels/ref/ref_ops.h"

namespace tessera::ref {

void RmsNorm(const RmsNormArgs& args) {
  const int64_t hidden = args.x.dim(1);
  for (int64_t t = 0; t < args.x.dim(0); ++t) {
    float* x = args.x.as<float>() + t * args.x.stride0();
    float* out = args.out.as<float>() + t * args.out.stride0();
    double squares = 0;
    for (int64_t i = 0; i < hidden; ++i) {
      if (!args.add.empty()) x[i] += args.add.as<float>()[t * args.add.stride0() + i];
      squares += static_cast<double>(x[i]) * x[i];
    }
    const double scale = 1.0 / std::sqrt(squares / static_cast<double>(hidden) + args.eps);
    for (int64_t i = 0; i < hidden; ++i) {
      out[i] = static_cast<float>(x[i] * scale * args.weight.as<float>()[i]);
    }
  }
}

}  // namespace tessera::ref
