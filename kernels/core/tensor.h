// Views of tensors in device memory. A view never owns and, above kernels/, is never dereferenced.
#ifndef TESSERA_KERNELS_CORE_TENSOR_H_
#define TESSERA_KERNELS_CORE_TENSOR_H_

#include <array>
#include <cstdint>
#include <initializer_list>

#include "kernels/core/dtype.h"
#include "kernels/core/status_macros.h"

namespace tessera {

// Row-major, at most four dimensions. All dimensions but the first are contiguous; the first has
// its own stride, so that a column range of a matrix is a view too.
template <typename Void>
class BasicTensorView {
 public:
  static constexpr int kMaxRank = 4;

  BasicTensorView() = default;
  // A contiguous tensor.
  BasicTensorView(Void* data, DType dtype, std::initializer_list<int64_t> dims)
      : data_(data), dtype_(dtype) {
    TESSERA_CHECK(dims.size() <= kMaxRank);
    for (int64_t dim : dims) dims_[rank_++] = dim;
    stride0_ = row_size();
  }
  // A mutable view is usable as a constant one.
  template <typename Other>
  requires(std::is_convertible_v<Other*, Void*>)
      BasicTensorView(const BasicTensorView<Other>& other)  // NOLINT(google-explicit-constructor)
      : data_(other.data()), dtype_(other.dtype()), rank_(other.rank()), stride0_(other.stride0()) {
    for (int i = 0; i < rank_; ++i) dims_[i] = other.dim(i);
  }

  Void* data() const { return data_; }
  DType dtype() const { return dtype_; }
  int rank() const { return rank_; }
  int64_t dim(int i) const { return dims_[i]; }
  // Elements between row i and row i + 1.
  int64_t stride0() const { return stride0_; }
  bool empty() const { return data_ == nullptr; }
  bool contiguous() const { return rank_ == 0 || stride0_ == row_size(); }

  // Elements of one row: the product of all dimensions but the first.
  int64_t row_size() const {
    int64_t size = 1;
    for (int i = 1; i < rank_; ++i) size *= dims_[i];
    return size;
  }
  int64_t num_elements() const { return rank_ == 0 ? 0 : dims_[0] * row_size(); }
  int64_t num_bytes() const { return num_elements() * static_cast<int64_t>(SizeOf(dtype_)); }

  // Rows [begin, begin + count).
  BasicTensorView Rows(int64_t begin, int64_t count) const {
    TESSERA_CHECK(begin >= 0 && count >= 0 && begin + count <= dims_[0]);
    BasicTensorView view = *this;
    view.dims_[0] = count;
    view.data_ = Offset(begin * stride0_);
    return view;
  }
  // Columns [begin, begin + count) of a matrix.
  BasicTensorView Columns(int64_t begin, int64_t count) const {
    TESSERA_CHECK(rank_ == 2 && begin >= 0 && count >= 0 && begin + count <= dims_[1]);
    BasicTensorView view = *this;
    view.dims_[1] = count;
    view.data_ = Offset(begin);
    return view;
  }
  // The same view at another address (used by backends that translate addresses).
  BasicTensorView At(Void* data) const {
    BasicTensorView view = *this;
    view.data_ = data;
    return view;
  }

  // Only inside kernels/ and transports: the address as a typed pointer.
  template <typename T>
  auto* as() const {
    using Element = std::conditional_t<std::is_const_v<Void>, const T, T>;
    return static_cast<Element*>(data_);
  }

 private:
  Void* Offset(int64_t elements) const {
    using Byte = std::conditional_t<std::is_const_v<Void>, const char, char>;
    return static_cast<Byte*>(data_) + elements * static_cast<int64_t>(SizeOf(dtype_));
  }

  Void* data_ = nullptr;
  DType dtype_ = DType::kF32;
  int rank_ = 0;
  std::array<int64_t, kMaxRank> dims_{};
  int64_t stride0_ = 0;
};

using TensorView = BasicTensorView<void>;
using ConstTensorView = BasicTensorView<const void>;

}  // namespace tessera

#endif  // TESSERA_KERNELS_CORE_TENSOR_H_
