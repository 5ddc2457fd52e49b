#include "kernels/cpu/operations.h"

namespace tessera::cpu {

void RmsNorm(const Context& context, const RmsNormArgs& args) {
  const int64_t size = args.x.dim(1);
  const auto cost = static_cast<double>(args.x.dim(0) * size) / 4;
  context.For(args.x.dim(0), cost, [&](int64_t t) {
    context.kernels.rms_norm(
        args.x.as<float>() + t * args.x.stride0(),
        args.add.empty() ? nullptr : args.add.as<float>() + t * args.add.stride0(),
        args.weight.as<float>(), args.eps, size, args.out.as<float>() + t * args.out.stride0());
  });
}

}  // namespace tessera::cpu
