// Weights in a GPU's memory.
#ifndef TESSERA_KERNELS_CUDA_CUDA_WEIGHT_H_
#define TESSERA_KERNELS_CUDA_CUDA_WEIGHT_H_

#include <cstdint>
#include <memory>
#include <utility>

#include "kernels/cuda/cuda_device.h"
#include "kernels/cuda/kernels/matrix.h"
#include "kernels/cuda/simt/tensor_map.h"
#include "kernels/ops.h"

namespace tessera::cuda {

// Row-major, aligned to 256 bytes, the columns padded with zeros to a multiple of kColumnUnit, so
// that every row begins on a boundary of 16 bytes.
class CudaWeight final : public Weight {
 public:
  static constexpr int64_t kColumnUnit = 8;

  // Stacks the parts of `source` (already checked), rounded to its dtype. Any thread.
  static absl::StatusOr<std::unique_ptr<Weight>> Create(CudaDevice& device,
                                                        const WeightSource& source);
  CudaWeight(DeviceBuffer memory, DType dtype, int64_t rows, int64_t cols)
      : memory_(std::move(memory)), dtype_(dtype), rows_(rows), cols_(cols) {}

  static int64_t StrideOf(int64_t cols) {
    return (cols + kColumnUnit - 1) / kColumnUnit * kColumnUnit;
  }
  static const CudaWeight& Of(const Weight& weight) {
    return static_cast<const CudaWeight&>(weight);
  }

  int64_t rows() const override { return rows_; }
  int64_t cols() const override { return cols_; }
  size_t bytes() const override { return memory_.bytes(); }
  DType dtype() const { return dtype_; }
  int64_t row_stride() const { return StrideOf(cols_); }  // elements
  const void* data() const { return memory_.data(); }
  // For TMA, in boxes of kSm90WeightRows rows; of bfloat16 weights on sm_90.
  const simt::TensorMap& map() const { return map_; }
  ConstRows matrix() const {
    return {.data = data(),
            .stride = row_stride(),
            .element = dtype_ == DType::kF32 ? Element::kF32 : Element::kBf16};
  }

 private:
  DeviceBuffer memory_;
  DType dtype_;
  int64_t rows_;
  int64_t cols_;
  simt::TensorMap map_{};
};

// The addresses of a layer's expert weights, in device memory; null for an empty slot. On sm_90
// their tensor maps, too.
class CudaExpertTable final : public ExpertTable {
 public:
  static absl::StatusOr<std::unique_ptr<ExpertTable>> Create(CudaDevice& device,
                                                             const ExpertTableShape& shape);
  CudaExpertTable(CudaDevice& device, DeviceBuffer addresses, DeviceBuffer maps,
                  const ExpertTableShape& shape)
      : ExpertTable(shape),
        device_(device),
        addresses_(std::move(addresses)),
        maps_(std::move(maps)) {}

  static const CudaExpertTable& Of(const ExpertTable& table) {
    return static_cast<const CudaExpertTable&>(table);
  }

  // All weights of a table have one type.
  void Set(int32_t slot, const Weight& weight) override;
  const void* const* addresses() const {
    return static_cast<const void* const*>(addresses_.data());
  }
  // CudaWeight::map by slot, for bfloat16 weights on sm_90. What is in an empty slot means nothing.
  const simt::TensorMap* maps() const { return static_cast<const simt::TensorMap*>(maps_.data()); }
  int64_t row_stride() const { return CudaWeight::StrideOf(shape().cols); }  // elements
  bool has_weights() const { return has_weights_; }
  // Of the weights, once there is one.
  DType dtype() const { return dtype_; }

 private:
  CudaDevice& device_;
  DeviceBuffer addresses_;
  DeviceBuffer maps_;
  bool has_weights_ = false;
  DType dtype_ = DType::kBF16;
};

}  // namespace tessera::cuda

#endif  // TESSERA_KERNELS_CUDA_CUDA_WEIGHT_H_
