#include "kernels/core/device.h"

#include "absl/strings/str_cat.h"

namespace tessera {

absl::StatusOr<DeviceBuffer> Device::Allocate(size_t bytes, std::string_view what) {
  absl::StatusOr<void*> data = AllocateBytes(bytes == 0 ? 1 : bytes);
  if (!data.ok()) {
    return absl::Status(
        data.status().code(),
        absl::StrCat("cannot allocate ", bytes, " bytes for ",
                     absl::string_view(what.data(), what.size()), ": ", data.status().message()));
  }
  return DeviceBuffer(this, *data, bytes == 0 ? 1 : bytes);
}

TensorView DeviceBuffer::View(DType dtype, std::initializer_list<int64_t> dims,
                              size_t byte_offset) const {
  TensorView view(static_cast<char*>(data_) + byte_offset, dtype, dims);
  TESSERA_CHECK(byte_offset + static_cast<size_t>(view.num_bytes()) <= bytes_);
  return view;
}

}  // namespace tessera
