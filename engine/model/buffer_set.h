// Device buffers that live as long as their owner, and how much they take.
#ifndef TESSERA_ENGINE_MODEL_BUFFER_SET_H_
#define TESSERA_ENGINE_MODEL_BUFFER_SET_H_

#include <cstdint>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/core/device.h"
#include "kernels/core/status_macros.h"

namespace tessera {

// One thread. The device must outlive it.
class BufferSet {
 public:
  explicit BufferSet(Device& device) : device_(device) {}

  // A zero-filled [rows, cols] tensor that lives as long as the set. RESOURCE_EXHAUSTED names
  // `what`.
  absl::StatusOr<TensorView> New(DType dtype, int64_t rows, int64_t cols, const char* what) {
    const int64_t bytes = rows * cols * static_cast<int64_t>(SizeOf(dtype));
    ASSIGN_OR_RETURN(DeviceBuffer buffer, device_.Allocate(static_cast<size_t>(bytes), what));
    buffers_.push_back(std::move(buffer));
    bytes_ += bytes;
    return buffers_.back().View(dtype, {rows, cols});
  }

  int64_t bytes() const { return bytes_; }

 private:
  Device& device_;
  std::vector<DeviceBuffer> buffers_;
  int64_t bytes_ = 0;
};

}  // namespace tessera

#endif  // TESSERA_ENGINE_MODEL_BUFFER_SET_H_
