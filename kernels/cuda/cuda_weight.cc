#include "kernels/cuda/cuda_weight.h"

#include <cstring>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/core/status_macros.h"
#include "kernels/cuda/cuda_error.h"
#include "kernels/cuda/kernels/gemm_sm90.h"
#include "kernels/cuda/kernels/sm90.h"
#include "kernels/cuda/tensor_map.h"
#include "kernels/cuda/weight_uploads.h"

namespace tessera::cuda {
namespace {

template <typename T>
T LoadUnaligned(const char* from) {
  T value;
  std::memcpy(&value, from, sizeof(T));
  return value;
}

float LoadElement(const char* from, DType dtype) {
  switch (dtype) {
    case DType::kF32:
      return LoadUnaligned<float>(from);
    case DType::kF16:
      return F16ToFloat(LoadUnaligned<uint16_t>(from));
    default:
      return BF16ToFloat(LoadUnaligned<uint16_t>(from));
  }
}

// The rows of a source, in the form in which a GPU holds them.
class RowSource {
 public:
  explicit RowSource(const WeightSource& source)
      : source_(source),
        cols_(source.parts[0].cols),
        element_bytes_(static_cast<int64_t>(SizeOf(source.dtype))),
        row_bytes_(CudaWeight::StrideOf(cols_) * element_bytes_) {}

  int64_t cols() const { return cols_; }
  int64_t row_bytes() const { return row_bytes_; }
  int64_t rows() const {
    int64_t rows = source_.pad_rows;
    for (const HostMatrix& part : source_.parts) rows += part.rows;
    return rows;
  }

  // Row `row` to `to`, with the padding behind it.
  void Write(int64_t row, char* to) const {
    const int64_t used = cols_ * element_bytes_;
    std::memset(to + used, 0, row_bytes_ - used);
    for (const HostMatrix& part : source_.parts) {
      if (row < part.rows) {
        Convert(part, row, to);
        return;
      }
      row -= part.rows;
    }
    std::memset(to, 0, used);
  }

 private:
  void Convert(const HostMatrix& part, int64_t row, char* to) const {
    const auto from_bytes = static_cast<int64_t>(SizeOf(part.dtype));
    const char* from = static_cast<const char*>(part.data) + row * part.row_stride * from_bytes;
    if (part.dtype == source_.dtype) {
      std::memcpy(to, from, cols_ * from_bytes);
      return;
    }
    for (int64_t i = 0; i < cols_; ++i) {
      const float value = LoadElement(from + i * from_bytes, part.dtype);
      if (source_.dtype == DType::kF32) {
        std::memcpy(to + i * element_bytes_, &value, sizeof(value));
      } else {
        const uint16_t bits = FloatToBF16(value);
        std::memcpy(to + i * element_bytes_, &bits, sizeof(bits));
      }
    }
  }

  const WeightSource& source_;
  const int64_t cols_;
  const int64_t element_bytes_;
  const int64_t row_bytes_;
};

bool HasTma(const CudaDevice& device) {
  return CapabilityOf(device.properties()) == kSm90Capability;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Weight>> CudaWeight::Create(CudaDevice& device,
                                                           const WeightSource& source) {
  const RowSource rows(source);
  const auto row_bytes = static_cast<size_t>(rows.row_bytes());
  if (row_bytes > WeightUploads::kSegmentBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("a weight with ", rows.cols(), " columns is too wide for the cuda backend"));
  }
  const size_t bytes = rows.rows() * row_bytes;
  DeviceBuffer memory;
  ASSIGN_OR_RETURN(memory, device.AllocateUncleared(bytes, "a weight"));
  const auto write = [&](char* to, size_t begin, size_t size) {
    for (size_t at = 0; at < size; at += row_bytes) {
      rows.Write(static_cast<int64_t>((begin + at) / row_bytes), to + at);
    }
  };
  RETURN_IF_ERROR(device.WriteNow(memory.data(), bytes, row_bytes, write));
  auto weight =
      std::make_unique<CudaWeight>(std::move(memory), source.dtype, rows.rows(), rows.cols());
  if (weight->dtype() == DType::kBF16 && HasTma(device) && bytes > 0) {
    const BoxedMatrix matrix{.data = weight->data(),
                             .rows = weight->rows(),
                             .cols = weight->cols(),
                             .stride = weight->row_stride(),
                             .box_rows = kSm90WeightRows};
    RETURN_IF_ERROR(ToStatus(EncodeTensorMap(matrix, &weight->map_), device.index(),
                             "describing a weight to TMA"));
  }
  return weight;
}

absl::StatusOr<std::unique_ptr<ExpertTable>> CudaExpertTable::Create(
    CudaDevice& device, const ExpertTableShape& shape) {
  DeviceBuffer addresses;
  ASSIGN_OR_RETURN(addresses, device.Allocate(shape.num_slots * sizeof(void*),
                                              "the addresses of a layer's experts"));
  DeviceBuffer maps;
  if (HasTma(device)) {
    ASSIGN_OR_RETURN(maps, device.Allocate(shape.num_slots * sizeof(simt::TensorMap),
                                           "the tensor maps of a layer's experts"));
  }
  return std::make_unique<CudaExpertTable>(device, std::move(addresses), std::move(maps), shape);
}

void CudaExpertTable::Set(int32_t slot, const Weight& weight) {
  CheckFits(slot, weight);
  const CudaWeight& own = CudaWeight::Of(weight);
  TESSERA_CHECK(!has_weights_ || own.dtype() == dtype_);
  has_weights_ = true;
  dtype_ = own.dtype();
  const void* address = own.data();
  device_.Upload(static_cast<const void**>(addresses_.data()) + slot, &address, sizeof(address));
  if (maps_.data() != nullptr) {
    device_.Upload(static_cast<simt::TensorMap*>(maps_.data()) + slot, &own.map(),
                   sizeof(own.map()));
  }
}

}  // namespace tessera::cuda
