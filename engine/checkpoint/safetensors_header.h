// The header of a safetensors file: names, types, shapes and places of its tensors.
#ifndef TESSERA_ENGINE_CHECKPOINT_SAFETENSORS_HEADER_H_
#define TESSERA_ENGINE_CHECKPOINT_SAFETENSORS_HEADER_H_

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/core/dtype.h"

namespace tessera {

// File layout: 8 bytes little-endian header size N, N bytes of JSON, tensor data to the end.
inline constexpr int64_t kSafetensorsPrefixBytes = 8;
inline constexpr int64_t kMaxSafetensorsHeaderBytes = 100'000'000;
inline constexpr int64_t kMaxSafetensorsTensors = int64_t{1} << 18;
inline constexpr int kMaxSafetensorsRank = 8;
inline constexpr size_t kMaxSafetensorsNameBytes = 512;

// One tensor of a file: row-major, little-endian, at no particular alignment.
struct SafetensorsEntry {
  std::string name;
  std::string_view dtype_name;  // as written in the file ("BF16"); static storage
  std::optional<DType> dtype;   // unset: legal in the format, but no type of ours
  std::vector<int64_t> shape;   // [] is one element
  int64_t data_begin = 0;       // bytes, from the start of the file
  int64_t num_bytes = 0;
};

// All entries in the order of their data. Checks the rules of the format and more: no duplicate
// keys, no unknown or missing fields, plain integers up to 2^53, known types, sizes that equal
// shape times type without overflow, data that covers the rest of the file without holes or
// overlap. header: the N bytes; file_size: of the whole file. Errors are InvalidArgument, one
// line, and name the tensor where one is at fault; the caller adds the file. Memory grows with the
// number of real entries only.
absl::StatusOr<std::vector<SafetensorsEntry>> ParseSafetensorsHeader(std::string_view header,
                                                                     int64_t file_size);

// A name as it may appear in a message: escaped and shortened.
std::string PrintableName(std::string_view name);

// "[2, 3]".
std::string ShapeText(const std::vector<int64_t>& shape);

}  // namespace tessera

#endif  // TESSERA_ENGINE_CHECKPOINT_SAFETENSORS_HEADER_H_
