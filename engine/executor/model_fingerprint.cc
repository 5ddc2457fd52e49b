#include "engine/executor/model_fingerprint.h"

#include <openssl/evp.h>

#include <algorithm>
#include <memory>
#include <string_view>

#include "absl/strings/str_cat.h"
#include "engine/checkpoint/checkpoint.h"
#include "kernels/core/status_macros.h"
#include "kernels/core/text_file.h"

namespace tessera {
namespace {

constexpr int64_t kMaxConfigBytes = int64_t{1} << 20;
constexpr int64_t kSampledColumns = 16;

class Sha256 {
 public:
  Sha256() : context_(EVP_MD_CTX_new(), &EVP_MD_CTX_free) {
    TESSERA_CHECK(EVP_DigestInit_ex(context_.get(), EVP_sha256(), nullptr) == 1);
  }
  void Add(const void* data, size_t size) {
    TESSERA_CHECK(EVP_DigestUpdate(context_.get(), data, size) == 1);
  }
  // Preceded by its length, so that neighbours do not run into each other.
  void Add(std::string_view text) {
    Add(int64_t(text.size()));
    Add(text.data(), text.size());
  }
  void Add(int64_t value) { Add(&value, sizeof(value)); }
  std::string Finish() {
    unsigned char digest[EVP_MAX_MD_SIZE];
    unsigned int size = 0;
    TESSERA_CHECK(EVP_DigestFinal_ex(context_.get(), digest, &size) == 1);
    return {reinterpret_cast<const char*>(digest), size};
  }

 private:
  std::unique_ptr<EVP_MD_CTX, decltype(&EVP_MD_CTX_free)> context_;
};

absl::Status AddSample(const StoredTensor& tensor, Sha256* hash) {
  const std::vector<int64_t>& shape = tensor.entry->shape;
  if (!tensor.entry->dtype.has_value() || tensor.entry->num_bytes == 0) return absl::OkStatus();
  const auto element = static_cast<int64_t>(SizeOf(*tensor.entry->dtype));
  const int64_t columns = shape.empty() ? 1 : shape.back();
  const int64_t rows = tensor.entry->num_bytes / element / columns;
  const MatrixSlice slice{.row_begin = rows / 2,
                          .num_rows = 1,
                          .column_begin = 0,
                          .num_columns = std::min(columns, kSampledColumns)};
  ASSIGN_OR_RETURN(const MappedRows mapped, tensor.MapSlice(slice));
  hash->Add(mapped.data, slice.num_columns * element);
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<ModelFingerprint> FingerprintModel(const std::string& model_dir) {
  ModelFingerprint fingerprint;
  ASSIGN_OR_RETURN(const std::string config,
                   ReadTextFile(absl::StrCat(model_dir, "/config.json"), kMaxConfigBytes));
  Sha256 config_hash;
  config_hash.Add(config);
  fingerprint.config_hash = config_hash.Finish();
  ASSIGN_OR_RETURN(const std::unique_ptr<Checkpoint> checkpoint, Checkpoint::Open(model_dir));
  Sha256 model_hash;
  for (std::string_view name : checkpoint->names()) {
    const StoredTensor tensor = checkpoint->Find(name);
    model_hash.Add(name);
    model_hash.Add(tensor.entry->dtype_name);
    model_hash.Add(static_cast<int64_t>(tensor.entry->shape.size()));
    for (int64_t size : tensor.entry->shape) model_hash.Add(size);
    RETURN_IF_ERROR(AddSample(tensor, &model_hash));
  }
  fingerprint.model_hash = model_hash.Finish();
  return fingerprint;
}

}  // namespace tessera
