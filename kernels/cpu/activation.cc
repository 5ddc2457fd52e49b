#include <algorithm>

#include "kernels/cpu/operations.h"

namespace tessera::cpu {

void SiluAndMul(const Context& context, const SiluAndMulArgs& args) {
  constexpr int64_t kPiece = 2048;
  const int64_t width = args.out.dim(1);
  int64_t rows = args.x.dim(0);
  if (!args.num_rows.empty()) rows = std::min<int64_t>(rows, *args.num_rows.as<int32_t>());
  const int64_t pieces = (width + kPiece - 1) / kPiece;
  context.For(rows * pieces, static_cast<double>(rows * width), [&](int64_t task) {
    const int64_t row = task / pieces;
    const int64_t begin = task % pieces * kPiece;
    const float* gate = args.x.as<float>() + row * args.x.stride0() + begin;
    context.kernels.silu_and_mul(gate, gate + width, std::min(kPiece, width - begin),
                                 args.out.as<float>() + row * args.out.stride0() + begin);
  });
}

}  // namespace tessera::cpu
