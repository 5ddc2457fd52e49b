#include "kernels/cpu/gemm.h"
#include "kernels/cpu/operations.h"

namespace tessera::cpu {

void GroupedGemm(const Context& context, const GroupedGemmArgs& args) {
  const int32_t* offsets = args.offsets.as<int32_t>();
  const int32_t* row_index = args.row_index.empty() ? nullptr : args.row_index.as<int32_t>();
  std::vector<Product> products;
  products.reserve(args.experts.size());
  for (size_t e = 0; e < args.experts.size(); ++e) {
    const int64_t begin = offsets[e];
    if (begin == offsets[e + 1]) continue;
    products.push_back(
        {.weight = &PackedWeight::Of(*args.experts[e]),
         .x = args.x.as<float>() + (row_index == nullptr ? begin * args.x.stride0() : 0),
         .x_stride = args.x.stride0(),
         .row_index = row_index == nullptr ? nullptr : row_index + begin,
         .rows = offsets[e + 1] - begin,
         .out = args.out.as<float>() + begin * args.out.stride0(),
         .out_stride = args.out.stride0(),
         .bias = nullptr});
  }
  Multiply(context, products);
}

}  // namespace tessera::cpu
