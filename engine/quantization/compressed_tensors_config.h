// The dialect of quantization_config that compressed-tensors writes.
#ifndef TESSERA_ENGINE_QUANTIZATION_COMPRESSED_TENSORS_CONFIG_H_
#define TESSERA_ENGINE_QUANTIZATION_COMPRESSED_TENSORS_CONFIG_H_

#include "engine/files/json_fields.h"
#include "engine/quantization/quantization_config.h"

namespace tessera {

// Fills groups, skip list and kv_scales; faults are those of `fields`.
void ReadCompressedTensors(const JsonFields& fields, QuantizationConfig* config);

}  // namespace tessera

#endif  // TESSERA_ENGINE_QUANTIZATION_COMPRESSED_TENSORS_CONFIG_H_
