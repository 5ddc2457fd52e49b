#include <cmath>

#include "kernels/ref/element.h"
#include "kernels/ref/ref_ops.h"

namespace tessera::ref {

void RmsNorm(const RmsNormArgs& args) {
  const int64_t hidden = args.x.dim(1);
  for (int64_t t = 0; t < args.x.dim(0); ++t) {
    const int64_t row = t * args.x.stride0();
    double squares = 0;
    for (int64_t i = 0; i < hidden; ++i) {
      if (!args.add.empty()) {
        const float add = Load(args.add, t * args.add.stride0() + i);
        Store(args.x, row + i, Load(args.x, row + i) + add);
      }
      const double x = Load(args.x, row + i);  // as stored: rounded
      squares += x * x;
    }
    const double scale = 1.0 / std::sqrt(squares / static_cast<double>(hidden) + args.eps);
    for (int64_t i = 0; i < hidden; ++i) {
      const double normed = Load(args.x, row + i) * scale * args.weight.as<float>()[i];
      Store(args.out, t * args.out.stride0() + i, static_cast<float>(normed));
    }
  }
}

}  // namespace tessera::ref
