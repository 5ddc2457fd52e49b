// Whether two model folders hold the same model, without reading all of it.
#ifndef TESSERA_ENGINE_EXECUTOR_MODEL_FINGERPRINT_H_
#define TESSERA_ENGINE_EXECUTOR_MODEL_FINGERPRINT_H_

#include <string>

#include "absl/status/statusor.h"

namespace tessera {

struct ModelFingerprint {
  std::string config_hash;  // SHA-256 of config.json
  // SHA-256 of every tensor's name, type, shape and a few elements from its middle: other weights
  // of the same shape differ, and a model of 470 GB takes seconds.
  std::string model_hash;
};

absl::StatusOr<ModelFingerprint> FingerprintModel(const std::string& model_dir);

}  // namespace tessera

#endif  // TESSERA_ENGINE_EXECUTOR_MODEL_FINGERPRINT_H_
