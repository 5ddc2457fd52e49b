#include "kernels/expert_table.h"
#include "kernels/ref/element.h"
#include "kernels/ref/ref_ops.h"
#include "kernels/ref/weight.h"

namespace tessera::ref {
namespace {

double Dot(const std::vector<float>& x, const std::vector<float>& w) {
  double sum = 0;
  for (size_t k = 0; k < w.size(); ++k) sum += static_cast<double>(x[k]) * w[k];
  return sum;
}

}  // namespace

void Gemm(const GemmArgs& args) {
  const auto& weight = static_cast<const RefWeight&>(*args.weight);
  std::vector<std::vector<float>> x;
  for (int64_t m = 0; m < args.x.dim(0); ++m) x.push_back(LoadRow(args.x, m));
  for (int64_t n = 0; n < weight.rows(); ++n) {
    const std::vector<float> w = weight.Row(n);
    const double bias = args.bias.empty() ? 0.0 : args.bias.as<float>()[n];
    for (int64_t m = 0; m < args.x.dim(0); ++m) {
      Store(args.out, m * args.out.stride0() + n, static_cast<float>(Dot(x[m], w) + bias));
    }
  }
}

void GroupedGemm(const GroupedGemmArgs& args) {
  const int32_t* offsets = args.offsets.as<int32_t>();
  const auto& experts = HostExpertTable::Of(*args.experts);
  for (int32_t e = 0; e < experts.shape().num_slots; ++e) {
    if (offsets[e] == offsets[e + 1] || experts[e] == nullptr) continue;
    const auto& weight = static_cast<const RefWeight&>(*experts[e]);
    std::vector<std::vector<float>> x;
    for (int64_t r = offsets[e]; r < offsets[e + 1]; ++r) {
      x.push_back(LoadRow(args.x, args.row_index.empty() ? r : args.row_index.as<int32_t>()[r]));
    }
    for (int64_t n = 0; n < weight.rows(); ++n) {
      const std::vector<float> w = weight.Row(n);
      for (int64_t r = offsets[e]; r < offsets[e + 1]; ++r) {
        const double sum = Dot(x[r - offsets[e]], w);
        Store(args.out, r * args.out.stride0() + n, static_cast<float>(sum));
      }
    }
  }
}

}  // namespace tessera::ref
