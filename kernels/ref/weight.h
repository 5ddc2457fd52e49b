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
  size_t bytes() const override { return storage_.bytes() + scales_.bytes(); }
  std::vector<float> Row(int64_t row) const;

 private:
  // A quantised source, as codes.
  static absl::StatusOr<std::unique_ptr<Weight>> CreateOfCodes(Device& device,
                                                               const WeightSource& source);
  float OfCode(int64_t row, int64_t col) const;

  DeviceBuffer storage_;
  TensorView matrix_;  // [rows, cols] kF32 or kBF16; of codes: a byte each
  // Of codes only.
  bool rounds_ = false;  // values to bfloat16
  CodeScales codes_;     // views of scales_, once it has them
  DeviceBuffer scales_;  // [rows, groups] floats, then as many zeros
};

}  // namespace tessera::ref

#endif  // TESSERA_KERNELS_REF_WEIGHT_H_
