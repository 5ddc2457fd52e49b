// Elements of tensors that are float32 or bfloat16: activations and the KV cache. The reference
// backend computes on floats; loading is exact, storing rounds to nearest even.
#ifndef TESSERA_KERNELS_REF_ELEMENT_H_
#define TESSERA_KERNELS_REF_ELEMENT_H_

#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "kernels/core/tensor.h"

namespace tessera::ref {

// `index` counts elements from the view's first one.
inline float Load(const ConstTensorView& view, int64_t index) {
  return view.dtype() == DType::kF32 ? view.as<float>()[index]
                                     : BF16ToFloat(view.as<uint16_t>()[index]);
}

inline void Store(const TensorView& view, int64_t index, float value) {
  if (view.dtype() == DType::kF32) {
    view.as<float>()[index] = value;
  } else {
    view.as<uint16_t>()[index] = FloatToBF16(value);
  }
}

// Elements [begin, begin + count) of row `row`.
inline std::vector<float> LoadRow(const ConstTensorView& view, int64_t row, int64_t begin,
                                  int64_t count) {
  std::vector<float> values(count);
  const int64_t first = row * view.stride0() + begin;
  for (int64_t i = 0; i < count; ++i) values[i] = Load(view, first + i);
  return values;
}

inline std::vector<float> LoadRow(const ConstTensorView& view, int64_t row) {
  return LoadRow(view, row, 0, view.row_size());
}

// Elements [begin, begin + values.size()) of row `row`.
inline void StoreRow(const TensorView& view, int64_t row, int64_t begin,
                     absl::Span<const float> values) {
  const int64_t first = row * view.stride0() + begin;
  for (size_t i = 0; i < values.size(); ++i) {
    Store(view, first + static_cast<int64_t>(i), values[i]);
  }
}

}  // namespace tessera::ref

#endif  // TESSERA_KERNELS_REF_ELEMENT_H_
