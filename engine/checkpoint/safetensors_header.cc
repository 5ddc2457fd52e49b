#include "engine/checkpoint/safetensors_header.h"

#include <algorithm>
#include <numeric>
#include <tuple>
#include <utility>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_join.h"
#include "engine/checkpoint/json_scanner.h"
#include "engine/checkpoint/message.h"
#include "kernels/core/status_macros.h"

namespace tessera {
namespace {

constexpr std::string_view kMetadataKey = "__metadata__";
constexpr size_t kMaxMetadataEntries = 65536;
constexpr size_t kMaxDTypeNameBytes = 32;
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

absl::Status HeaderError(const absl::Status& status) {
  const absl::string_view text = status.message();
  return absl::InvalidArgumentError(
      Message("malformed header: ", std::string_view(text.data(), text.size())));
}

// string -> string; only checked.
absl::Status CheckMetadata(JsonScanner& scanner) {
  absl::flat_hash_set<std::string> keys;
  RETURN_IF_ERROR(scanner.Expect('{'));
  if (scanner.Accept('}')) return absl::OkStatus();
  std::string key;
  do {
    RETURN_IF_ERROR(scanner.ReadString(kMaxSafetensorsNameBytes, key));
    if (!keys.insert(key).second) return scanner.Error("metadata key given twice");
    if (keys.size() > kMaxMetadataEntries) return scanner.Error("too much metadata");
    RETURN_IF_ERROR(scanner.Expect(':'));
    if (scanner.Peek() != '"') return scanner.Error("metadata value that is not a string");
    RETURN_IF_ERROR(scanner.SkipValue());
  } while (scanner.Accept(','));
  return scanner.Expect('}');
}

absl::Status ReadShape(JsonScanner& scanner, std::vector<int64_t>& shape) {
  RETURN_IF_ERROR(scanner.Expect('['));
  if (scanner.Accept(']')) return absl::OkStatus();
  do {
    if (shape.size() == kMaxSafetensorsRank) {
      return scanner.Error(Message("more than ", kMaxSafetensorsRank, " dimensions"));
    }
    RETURN_IF_ERROR(scanner.ReadUnsigned(shape.emplace_back()));
  } while (scanner.Accept(','));
  return scanner.Expect(']');
}

struct RawEntry {
  const StoredType* type = nullptr;
  std::vector<int64_t> shape;
  int64_t begin = -1;
  int64_t end = -1;
  bool has_shape = false;
};

absl::Status ReadDType(JsonScanner& scanner, RawEntry& raw) {
  std::string name;
  RETURN_IF_ERROR(scanner.ReadString(kMaxDTypeNameBytes, name));
  raw.type = FindType(name);
  if (raw.type == nullptr) return scanner.Error(Message("unknown dtype ", PrintableName(name)));
  return absl::OkStatus();
}

absl::Status ReadField(JsonScanner& scanner, RawEntry& raw) {
  std::string key;
  RETURN_IF_ERROR(scanner.ReadString(kMaxSafetensorsNameBytes, key));
  RETURN_IF_ERROR(scanner.Expect(':'));
  if (key == "dtype" && raw.type == nullptr) return ReadDType(scanner, raw);
  if (key == "shape" && !raw.has_shape) {
    raw.has_shape = true;
    return ReadShape(scanner, raw.shape);
  }
  if (key == "data_offsets" && raw.begin < 0) {
    RETURN_IF_ERROR(scanner.Expect('['));
    RETURN_IF_ERROR(scanner.ReadUnsigned(raw.begin));
    RETURN_IF_ERROR(scanner.Expect(','));
    RETURN_IF_ERROR(scanner.ReadUnsigned(raw.end));
    return scanner.Expect(']');
  }
  return scanner.Error(Message("field ", PrintableName(key), " unknown or given twice"));
}

absl::StatusOr<RawEntry> ReadEntry(JsonScanner& scanner) {
  RawEntry raw;
  RETURN_IF_ERROR(scanner.Expect('{'));
  if (!scanner.Accept('}')) {
    do {
      RETURN_IF_ERROR(ReadField(scanner, raw));
    } while (scanner.Accept(','));
    RETURN_IF_ERROR(scanner.Expect('}'));
  }
  if (raw.type == nullptr) return scanner.Error("no dtype");
  if (!raw.has_shape) return scanner.Error("no shape");
  if (raw.begin < 0) return scanner.Error("no data_offsets");
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
    const absl::string_view why = num_bytes.status().message();
    return TensorError(name, std::string_view(why.data(), why.size()));
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

absl::Status ReadEntries(JsonScanner& scanner, std::vector<SafetensorsEntry>& entries) {
  bool has_metadata = false;
  std::string name;
  do {
    if (absl::Status status = scanner.ReadString(kMaxSafetensorsNameBytes, name); !status.ok()) {
      return HeaderError(status);
    }
    if (absl::Status status = scanner.Expect(':'); !status.ok()) return HeaderError(status);
    if (name == kMetadataKey) {
      if (has_metadata) return HeaderError(scanner.Error("metadata given twice"));
      has_metadata = true;
      if (absl::Status status = CheckMetadata(scanner); !status.ok()) return HeaderError(status);
      continue;
    }
    if (static_cast<int64_t>(entries.size()) == kMaxSafetensorsTensors) {
      return HeaderError(scanner.Error(Message("more than ", kMaxSafetensorsTensors, " tensors")));
    }
    absl::StatusOr<RawEntry> raw = ReadEntry(scanner);
    if (!raw.ok()) {
      const absl::string_view why = raw.status().message();
      return TensorError(name, std::string_view(why.data(), why.size()));
    }
    ASSIGN_OR_RETURN(SafetensorsEntry entry, CheckEntry(name, *std::move(raw)));
    entries.push_back(std::move(entry));
  } while (scanner.Accept(','));
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
    return absl::InvalidArgumentError("malformed header: must begin with '{'");
  }
  JsonScanner scanner(header);
  std::vector<SafetensorsEntry> entries;
  if (absl::Status status = scanner.Expect('{'); !status.ok()) return HeaderError(status);
  if (!scanner.Accept('}')) {
    RETURN_IF_ERROR(ReadEntries(scanner, entries));
    if (absl::Status status = scanner.Expect('}'); !status.ok()) return HeaderError(status);
  }
  // Writers pad with spaces, and with nothing else.
  if (header.find_first_not_of(' ', scanner.position()) != std::string_view::npos) {
    return HeaderError(scanner.Error("text behind the last brace"));
  }
  RETURN_IF_ERROR(CheckUniqueNames(entries));
  const int64_t data_begin = kSafetensorsPrefixBytes + static_cast<int64_t>(header.size());
  RETURN_IF_ERROR(CheckLayout(data_begin, file_size, entries));
  return entries;
}

}  // namespace tessera
