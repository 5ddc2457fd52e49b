// The values of quantised matrices, exactly as their formats define them.
#ifndef TESSERA_ENGINE_QUANTIZATION_DEQUANTIZE_H_
#define TESSERA_ENGINE_QUANTIZATION_DEQUANTIZE_H_

#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/quantization/stored_module.h"

namespace tessera {

// What goes with the codes of a module. Small beside them.
struct ModuleTables {
  // In the order of the stored tensor: one, [N], [row blocks, column blocks], [N, G], and [G, N]
  // with GPTQ and AWQ. One where the tensor may miss.
  std::vector<float> scales;
  std::vector<int16_t> zeros;   // like the scales; empty: all are zero
  std::vector<int32_t> groups;  // [K] the group of every input; empty without groups
};

// Reads and checks them: scales that are NaN, infinite or negative where the format has no negative
// ones, groups beyond the last, zero points that the format does not define, a weight_shape of
// another matrix, a bias that is not zero. Errors are INVALID_ARGUMENT and name file and tensor.
absl::StatusOr<ModuleTables> ReadModuleTables(const StoredModule& module);

// Writes W[slice] to `out`, row-major without gaps, as kF32 or kBF16 (rounded once more). The slice
// lies inside the matrix; it may cut words, groups and blocks anywhere. Checks what it reads: codes
// that are NaN, and codes other than zero under a scale of zero, where scales cannot underflow.
struct DequantizeTarget {
  DType dtype = DType::kF32;
  std::byte* data = nullptr;
};
absl::Status Dequantize(const StoredModule& module, const MatrixSlice& slice,
                        const DequantizeTarget& target);

// Reads all of a quantised module and checks it as above.
absl::Status CheckValues(const StoredModule& module);

}  // namespace tessera

#endif  // TESSERA_ENGINE_QUANTIZATION_DEQUANTIZE_H_
