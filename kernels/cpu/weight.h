// Weights of the CPU backend: panels of 16 rows, packed so that a product with one row of
// activations reads memory in order.
#ifndef TESSERA_KERNELS_CPU_WEIGHT_H_
#define TESSERA_KERNELS_CPU_WEIGHT_H_

#include <memory>
#include <utility>

#include "kernels/core/device.h"
#include "kernels/core/shared_buffers.h"
#include "kernels/cpu/context.h"
#include "kernels/ops.h"

namespace tessera::cpu {

class PackedWeight : public Weight {
 public:
  PackedWeight(std::shared_ptr<const DeviceBuffer> storage, DType dtype, bool bf16, int64_t rows,
               int64_t cols)
      : storage_(std::move(storage)),
        rounds_activations_(dtype == DType::kBF16),
        bf16_(bf16),
        rows_(rows),
        cols_(cols) {}

  // Where packed weights lie: with equal ones of other ranks, or in the device's own memory.
  struct Home {
    Device& device;
    SharedBuffers* shared;  // or null
  };
  // Packs `source` (already checked) on all threads, straight from where it lies.
  static absl::StatusOr<std::unique_ptr<Weight>> Create(const Context& context, const Home& home,
                                                        const WeightSource& source);
  static const PackedWeight& Of(const Weight& weight) {
    return static_cast<const PackedWeight&>(weight);
  }

  int64_t rows() const override { return rows_; }
  int64_t cols() const override { return cols_; }
  size_t bytes() const override { return storage_->bytes(); }

  bool bf16() const { return bf16_; }
  // The weight was asked for in bfloat16: products may round the other factor to it as well.
  bool rounds_activations() const { return rounds_activations_; }
  int64_t panels() const { return (rows_ + kPanel - 1) / kPanel; }
  int64_t panel_bytes() const { return PanelSize(cols_, bf16_) * (bf16_ ? 2 : 4); }
  const void* panel(int64_t index) const {
    return static_cast<const char*>(storage_->data()) + index * panel_bytes();
  }
  // out = row (cols() floats).
  void CopyRow(int64_t row, float* out) const;

 private:
  std::shared_ptr<const DeviceBuffer> storage_;
  bool rounds_activations_;
  bool bf16_;
  int64_t rows_;
  int64_t cols_;
};

}  // namespace tessera::cpu

#endif  // TESSERA_KERNELS_CPU_WEIGHT_H_
