#include "kernels/cpu/gemm.h"
#include "kernels/cpu/operations.h"
#include "kernels/expert_table.h"

namespace tessera::cpu {

void GroupedGemm(const Context& context, const GroupedGemmArgs& args) {
  const int32_t* offsets = args.offsets.as<int32_t>();
  const int32_t* row_index = args.row_index.empty() ? nullptr : args.row_index.as<int32_t>();
  std::vector<Product> products;
  const auto& experts = HostExpertTable::Of(*args.experts);
  products.reserve(experts.shape().num_slots);
  for (int32_t e = 0; e < experts.shape().num_slots; ++e) {
    const int64_t begin = offsets[e];
    if (begin == offsets[e + 1] || experts[e] == nullptr) continue;
    products.push_back(
        {.weight = &PackedWeight::Of(*experts[e]),
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
