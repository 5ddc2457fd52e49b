#include "engine/checkpoint/safetensors_header.h"

#include <algorithm>
#include <numeric>
#include <tuple>
#include <utility>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_join.h"
#include "engine/files/json_document.h"
#include "engine/files/message.h"
#include "kernels/core/status_macros.h"

namespace tessera {
namespace {

namespace dom = simdjson::dom;

constexpr int64_t kMaxNumber = int64_t{1} << 53;  // what JSON can tell exactly everywhere
constexpr std::string_view kMetadataKey = "__metadata__";
constexpr size_t kMaxMetadataEntries = 65536;
constexpr size_t kMaxEchoedBytes = 120;

struct StoredType {
  std::string_view name;
  int bits;
  std::optional<DType> dtype;
};

constexpr StoredType kStoredTypes[] = {
    {"BF16", 16, DType::kBF16},
    {"F16", 16, DType::kF16},
    {"F32", 32, DType::kF32},
    {"F8_E4M3", 8, DType::kF8E4M3},
    {"I64", 64, DType::kI64},
    {"I32", 32, DType::kI32},
    {"I8", 8, DType::kI8},
    {"U8", 8, DType::kU8},
    {"BOOL", 8, std::nullopt},
    {"F8_E5M2", 8, std::nullopt},
    {"F8_E8M0", 8, std::nullopt},
    {"F8_E4M3FNUZ", 8, std::nullopt},
    {"F8_E5M2FNUZ", 8, std::nullopt},
    {"I16", 16, std::nullopt},
    {"U16", 16, std::nullopt},
    {"U32", 32, std::nullopt},
    {"U64", 64, std::nullopt},
    {"F64", 64, std::nullopt},
    {"C64", 64, std::nullopt},
    {"F4", 4, std::nullopt},
    {"F6_E2M3", 6, std::nullopt},
    {"F6_E3M2", 6, std::nullopt},
};

const StoredType* FindType(std::string_view name) {
  const auto* found = std::find_if(std::begin(kStoredTypes), std::end(kStoredTypes),
                                   [&](const StoredType& type) { return type.name == name; });
  return found == std::end(kStoredTypes) ? nullptr : found;
}

absl::Status TensorError(std::string_view name, std::string_view what) {
  return absl::InvalidArgumentError(Message("tensor ", PrintableName(name), ": ", what));
}

absl::Status HeaderError(std::string_view what) {
  return absl::InvalidArgumentError(Message("malformed header: ", what));
}

// What is wrong, without where.
absl::Status Fault(std::string_view what) { return absl::InvalidArgumentError(Message(what)); }

std::string_view MessageOf(const absl::Status& status) {
  return {status.message().data(), status.message().size()};
}

absl::Status CheckName(std::string_view name) {
  if (name.size() <= kMaxSafetensorsNameBytes) return absl::OkStatus();
  return Fault(Message("a name of more than ", kMaxSafetensorsNameBytes, " bytes"));
}

// string -> string; only checked.
absl::Status CheckMetadata(dom::element value) {
  dom::object metadata;
  if (value.get(metadata) != simdjson::SUCCESS) return Fault("metadata that is not an object");
  absl::flat_hash_set<std::string_view> keys;
  for (const auto& [key, text] : metadata) {
    RETURN_IF_ERROR(CheckName(key));
    if (!keys.insert(key).second) return Fault("metadata key given twice");
    if (keys.size() > kMaxMetadataEntries) return Fault("too much metadata");
    if (!text.is_string()) return Fault("metadata value that is not a string");
  }
  return absl::OkStatus();
}

absl::StatusOr<int64_t> WholeNumber(std::string_view field, dom::element value) {
  int64_t number = -1;
  if (value.get(number) == simdjson::SUCCESS && number >= 0 && number <= kMaxNumber) return number;
  return Fault(Message(field, " must hold whole numbers from 0 to 2^53"));
}

absl::Status ReadShape(dom::element value, std::vector<int64_t>& shape) {
  dom::array dims;
  if (value.get(dims) != simdjson::SUCCESS) return Fault("shape must be a list");
  for (const dom::element dim : dims) {
    if (shape.size() == kMaxSafetensorsRank) {
      return Fault(Message("more than ", kMaxSafetensorsRank, " dimensions"));
    }
    ASSIGN_OR_RETURN(shape.emplace_back(), WholeNumber("shape", dim));
  }
  return absl::OkStatus();
}

struct RawEntry {
  const StoredType* type = nullptr;
  std::vector<int64_t> shape;
  int64_t begin = -1;
  int64_t end = -1;
  bool has_shape = false;
};

absl::Status ReadDType(dom::element value, RawEntry& raw) {
  std::string_view name;
  if (value.get(name) != simdjson::SUCCESS) return Fault("dtype must be a string");
  raw.type = FindType(name);
  return raw.type != nullptr ? absl::OkStatus()
                             : Fault(Message("unknown dtype ", PrintableName(name)));
}

absl::Status ReadOffsets(dom::element value, RawEntry& raw) {
  dom::array offsets;
  if (value.get(offsets) != simdjson::SUCCESS || offsets.size() != 2) {
    return Fault("data_offsets must be a list of two numbers");
  }
  ASSIGN_OR_RETURN(raw.begin, WholeNumber("data_offsets", offsets.at(0)));
  ASSIGN_OR_RETURN(raw.end, WholeNumber("data_offsets", offsets.at(1)));
  return absl::OkStatus();
}

absl::Status ReadField(const dom::key_value_pair& field, RawEntry& raw) {
  if (field.key == "dtype" && raw.type == nullptr) return ReadDType(field.value, raw);
  if (field.key == "shape" && !raw.has_shape) {
    raw.has_shape = true;
    return ReadShape(field.value, raw.shape);
  }
  if (field.key == "data_offsets" && raw.begin < 0) return ReadOffsets(field.value, raw);
  return Fault(Message("field ", PrintableName(field.key), " unknown or given twice"));
}

absl::StatusOr<RawEntry> ReadEntry(dom::element value) {
  dom::object fields;
  if (value.get(fields) != simdjson::SUCCESS) return Fault("must be an object");
  RawEntry raw;
  for (const dom::key_value_pair field : fields) RETURN_IF_ERROR(ReadField(field, raw));
  if (raw.type == nullptr) return Fault("no dtype");
  if (!raw.has_shape) return Fault("no shape");
  if (raw.begin < 0) return Fault("no data_offsets");
  return raw;
}

absl::StatusOr<int64_t> BytesOf(const RawEntry& raw) {
  int64_t bits = raw.type->bits;
  for (const int64_t dim : raw.shape) {
    if (__builtin_mul_overflow(bits, dim, &bits)) {
      return absl::InvalidArgumentError(
          Message("shape ", ShapeText(raw.shape), " has more elements than any file"));
    }
  }
  if (bits % 8 != 0) return absl::InvalidArgumentError("does not fill whole bytes");
  return bits / 8;
}

absl::StatusOr<SafetensorsEntry> CheckEntry(std::string name, RawEntry raw) {
  const absl::StatusOr<int64_t> num_bytes = BytesOf(raw);
  if (!num_bytes.ok()) {
    return TensorError(name, MessageOf(num_bytes.status()));
  }
  if (raw.end < raw.begin || raw.end - raw.begin != *num_bytes) {
    return TensorError(
        name, Message("data_offsets [", raw.begin, ", ", raw.end, "] do not hold ", *num_bytes,
                      " bytes of ", raw.type->name, " ", ShapeText(raw.shape)));
  }
  SafetensorsEntry entry;
  entry.name = std::move(name);
  entry.dtype_name = raw.type->name;
  entry.dtype = raw.type->dtype;
  entry.shape = std::move(raw.shape);
  entry.data_begin = raw.begin;
  entry.num_bytes = *num_bytes;
  return entry;
}

absl::Status ReadEntries(dom::object header, std::vector<SafetensorsEntry>& entries) {
  bool has_metadata = false;
  for (const auto& [name, value] : header) {
    if (name == kMetadataKey) {
      if (has_metadata) return HeaderError("metadata given twice");
      has_metadata = true;
      const absl::Status status = CheckMetadata(value);
      if (!status.ok()) return HeaderError(MessageOf(status));
      continue;
    }
    if (const absl::Status status = CheckName(name); !status.ok()) {
      return HeaderError(MessageOf(status));
    }
    if (static_cast<int64_t>(entries.size()) == kMaxSafetensorsTensors) {
      return HeaderError(Message("more than ", kMaxSafetensorsTensors, " tensors"));
    }
    absl::StatusOr<RawEntry> raw = ReadEntry(value);
    if (!raw.ok()) return TensorError(name, MessageOf(raw.status()));
    ASSIGN_OR_RETURN(SafetensorsEntry entry, CheckEntry(std::string(name), *std::move(raw)));
    entries.push_back(std::move(entry));
  }
  return absl::OkStatus();
}

absl::Status CheckUniqueNames(const std::vector<SafetensorsEntry>& entries) {
  absl::flat_hash_set<std::string_view> names;
  names.reserve(entries.size());
  for (const SafetensorsEntry& entry : entries) {
    if (!names.insert(entry.name).second) return TensorError(entry.name, "given twice");
  }
  return absl::OkStatus();
}

// Sorts by place and turns the offsets into file positions.
absl::Status CheckLayout(int64_t data_begin, int64_t file_size,
                         std::vector<SafetensorsEntry>& entries) {
  std::sort(entries.begin(), entries.end(),
            [](const SafetensorsEntry& a, const SafetensorsEntry& b) {
              return std::tie(a.data_begin, a.num_bytes, a.name) <
                     std::tie(b.data_begin, b.num_bytes, b.name);
            });
  int64_t next = 0;
  for (SafetensorsEntry& entry : entries) {
    if (entry.data_begin != next) {
      return TensorError(entry.name,
                         Message(entry.data_begin < next ? "overlaps the tensor before it"
                                                         : "leaves a hole before it",
                                 ": begins at ", entry.data_begin, ", expected ", next));
    }
    next += entry.num_bytes;  // at most 2 x 2^53: data_offsets are bounded
    if (next > file_size - data_begin) {
      return TensorError(entry.name, Message("ends ", next - (file_size - data_begin),
                                             " bytes behind the end of the file; the file is "
                                             "truncated"));
    }
    entry.data_begin += data_begin;
  }
  if (next != file_size - data_begin) {
    return absl::InvalidArgumentError(
        Message("has ", file_size - data_begin - next, " bytes behind the last tensor"));
  }
  return absl::OkStatus();
}

}  // namespace

std::string PrintableName(std::string_view name) {
  const absl::string_view shown(name.data(), std::min(name.size(), kMaxEchoedBytes));
  return Message("\"", absl::CHexEscape(shown), name.size() > kMaxEchoedBytes ? "...\"" : "\"");
}

std::string ShapeText(const std::vector<int64_t>& shape) {
  return Message("[", absl::StrJoin(shape, ", "), "]");
}

absl::StatusOr<std::vector<SafetensorsEntry>> ParseSafetensorsHeader(std::string_view header,
                                                                     int64_t file_size) {
  if (header.empty() || header.front() != '{') {
    return HeaderError("must begin with '{'");
  }
  // Writers pad with spaces, and with nothing else.
  if (const size_t end = header.find_last_not_of(' '); header[end] != '}') {
    return HeaderError("no brace at the end, or text behind the last brace");
  }
  const absl::StatusOr<JsonDocument> document = JsonDocument::Parse(header);
  if (!document.ok()) return HeaderError(MessageOf(document.status()));
  dom::object object;
  TESSERA_CHECK(document->root().get(object) == simdjson::SUCCESS);  // it begins with a brace
  std::vector<SafetensorsEntry> entries;
  RETURN_IF_ERROR(ReadEntries(object, entries));
  RETURN_IF_ERROR(CheckUniqueNames(entries));
  const int64_t data_begin = kSafetensorsPrefixBytes + static_cast<int64_t>(header.size());
  RETURN_IF_ERROR(CheckLayout(data_begin, file_size, entries));
  return entries;
}

}  // namespace tessera
