// Row-major weights of the reference backend.
#ifndef TESSERA_KERNELS_REF_WEIGHT_H_
#define TESSERA_KERNELS_REF_WEIGHT_H_

#include <memory>
#include <utility>
#include <vector>

#include "kernels/core/device.h"
#include "kernels/ops.h"

namespace tessera::ref {

class RefWeight : public Weight {
 public:
  RefWeight(DeviceBuffer storage, TensorView matrix)
      : storage_(std::move(storage)), matrix_(matrix) {}

  // Stacks the parts of `source` (already checked) and rounds as it demands.
  static absl::StatusOr<std::unique_ptr<Weight>> Create(Device& device, const WeightSource& source);

  int64_t rows() const override { return matrix_.dim(0); }
  int64_t cols() const override { return matrix_.dim(1); }
  size_t bytes() const override { return storage_.bytes(); }
  std::vector<float> Row(int64_t row) const;

 private:
  DeviceBuffer storage_;
  TensorView matrix_;  // [rows, cols] kF32 or kBF16
};

}  // namespace tessera::ref

#endif  // TESSERA_KERNELS_REF_WEIGHT_H_
