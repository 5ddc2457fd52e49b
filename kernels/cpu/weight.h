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

// How the panels of a weight lie in memory.
struct PanelForm {
  bool bf16 = false;       // values, or what codes are unpacked to; else float
  bool quantized = false;  // codes, then scales [groups][16] and zeros [groups][16]
  PanelCode type = PanelCode::kInt8;
  bool has_zeros = false;
  int64_t groups = 0;
  int64_t group_size = 0;
  int64_t group_offset = 0;

  // Bytes of a panel of values, and of one as it lies in memory.
  int64_t ValueBytes(int64_t cols) const { return PanelSize(cols, bf16) * (bf16 ? 2 : 4); }
  int64_t Bytes(int64_t cols) const;
  PanelCodes CodesAt(const void* panel, int64_t cols) const;
};

class PackedWeight : public Weight {
 public:
  PackedWeight(std::shared_ptr<const DeviceBuffer> storage, DType dtype, const PanelForm& form,
               int64_t rows, int64_t cols)
      : storage_(std::move(storage)),
        rounds_activations_(dtype == DType::kBF16),
        form_(form),
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

  // Of the values that products are made of.
  bool bf16() const { return form_.bf16; }
  bool quantized() const { return form_.quantized; }
  // The weight was asked for in bfloat16: products may round the other factor to it as well.
  bool rounds_activations() const { return rounds_activations_; }
  int64_t panels() const { return (rows_ + kPanel - 1) / kPanel; }
  int64_t value_bytes() const { return form_.ValueBytes(cols_); }  // of a panel
  // Panels of values, for weights that are not quantised.
  const void* panel(int64_t index) const { return Stored(index); }
  // Writes a panel of values; of quantised weights.
  void Unpack(const Context& context, int64_t index, void* out) const {
    context.kernels.unpack(form_.CodesAt(Stored(index), cols_), form_.bf16, out);
  }
  // out = row (cols() floats).
  void CopyRow(const Context& context, int64_t row, float* out) const;

 private:
  const void* Stored(int64_t index) const {
    return static_cast<const char*>(storage_->data()) + index * form_.Bytes(cols_);
  }

  std::shared_ptr<const DeviceBuffer> storage_;
  bool rounds_activations_;
  PanelForm form_;
  int64_t rows_;
  int64_t cols_;
};

}  // namespace tessera::cpu

#endif  // TESSERA_KERNELS_CPU_WEIGHT_H_
