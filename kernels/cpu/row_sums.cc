// Sums of result rows, fp32 or bfloat16. Wide loops, compiled with -O3.
#include <algorithm>
#include <cstring>

#include "kernels/cpu/operations.h"

namespace tessera::cpu {
namespace {

// The sum of weighted rows in the calling thread's scratch memory, rounded to the row type once.
// Each product is rounded before it is added, as the reference backend does it.
class RowSum {
 public:
  RowSum(const ConstTensorView& rows, const TensorView& out)
      : rows_(rows), out_(out), size_(rows.dim(1)), sum_(Scratch(size_)) {
    std::fill_n(sum_, size_, 0.0F);
  }

  void Add(float weight, int64_t row) {
    float* __restrict sum = sum_;
    const int64_t size = size_;
    if (rows_.dtype() == DType::kF32) {
      const float* from = rows_.as<float>() + row * rows_.stride0();
      for (int64_t i = 0; i < size; ++i) sum[i] += weight * from[i];
    } else {
      const uint16_t* from = rows_.as<uint16_t>() + row * rows_.stride0();
      for (int64_t i = 0; i < size; ++i) sum[i] += weight * BF16ToFloat(from[i]);
    }
  }

  void Store(int64_t row) const {
    if (out_.dtype() == DType::kF32) {
      std::memcpy(out_.as<float>() + row * out_.stride0(), sum_, size_ * sizeof(float));
      return;
    }
    std::transform(sum_, sum_ + size_, out_.as<uint16_t>() + row * out_.stride0(), FloatToBF16);
  }

 private:
  const ConstTensorView& rows_;
  const TensorView& out_;
  const int64_t size_;
  float* const sum_;
};

}  // namespace

void SumResults(const Context& context, const SumResultsArgs& args) {
  const DispatchShape& shape = args.shape;
  const int32_t m = shape.row_slots();
  const auto cost = static_cast<double>(shape.num_results() * args.y.dim(1)) / 8;
  context.For(shape.num_rows(), cost, [&](int64_t row) {
    if (row % shape.capacity >= args.recv_counts.as<int32_t>()[row / shape.capacity]) return;
    const int32_t* header = args.headers.as<int32_t>() + row * HeaderWords(m);
    RowSum sum(args.y, args.chunks);
    for (int32_t j = 0; j < header[RowHeader::kNumSlots]; ++j) {
      sum.Add(HeaderWeight(header, m, j), args.sorted_rows.as<int32_t>()[row * m + j]);
    }
    sum.Store(row);
  });
}

void AddRanks(const Context& context, const AddRanksArgs& args) {
  const int64_t most = args.token_rows.dim(1);
  const auto cost = static_cast<double>(args.out.dim(0) * most * args.out.dim(1)) / 8;
  context.For(args.out.dim(0), cost, [&](int64_t t) {
    const int32_t* rows = args.token_rows.as<int32_t>() + t * most;
    RowSum sum(args.chunks, args.out);
    for (int64_t i = 0; i < most && rows[i] >= 0; ++i) sum.Add(1.0F, rows[i]);
    sum.Store(t);
  });
}

}  // namespace tessera::cpu
