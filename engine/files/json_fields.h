// Checked reading of a small JSON object: every value is tested for type and range, and the first
// fault is kept as a one-line status that names the file and the key.
#ifndef TESSERA_ENGINE_FILES_JSON_FIELDS_H_
#define TESSERA_ENGINE_FILES_JSON_FIELDS_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/files/json_document.h"

namespace tessera {

// Inclusive bounds.
struct IntRange {
  int64_t min;
  int64_t max;
};
struct NumberRange {
  double min;
  double max;
};

// A JSON object and where it came from. A key that is absent or null gives the fallback. Getters
// never fail at once: they return the fallback and record the fault in status(), which objects
// reached through Object() share; the caller checks it once at the end. Not thread-safe.
class JsonFields {
 public:
  // source: the file name used in messages. Fails when the text is no JSON object.
  static absl::StatusOr<JsonFields> Parse(std::string_view text, std::string_view source);

  // Present, null included.
  bool Contains(std::string_view key) const;
  // Present and not null.
  bool Has(std::string_view key) const;
  // Every key once, in the order in which they first appear, nulls included.
  std::vector<std::string> Keys() const;
  // For keys that take values of several types; false when absent.
  bool IsString(std::string_view key) const;
  bool IsEmptyObject(std::string_view key) const;

  int32_t Int(std::string_view key, int32_t fallback, IntRange range) const;
  double Number(std::string_view key, double fallback, NumberRange range) const;
  std::optional<int32_t> OptionalInt(std::string_view key, IntRange range) const;
  std::optional<double> OptionalNumber(std::string_view key, NumberRange range) const;
  bool Bool(std::string_view key, bool fallback) const;
  std::optional<bool> OptionalBool(std::string_view key) const;
  std::string String(std::string_view key, std::string_view fallback) const;
  // A list of strings; empty when absent.
  std::vector<std::string> Strings(std::string_view key) const;
  // A list of integers, or one integer as a list of one; empty when absent.
  std::vector<int32_t> Ints(std::string_view key, IntRange range) const;
  // A nested object; its keys appear as "key.inner" in messages.
  std::optional<JsonFields> Object(std::string_view key) const;

  // Records "FILE: KEY why" unless a fault is recorded already.
  void Fail(std::string_view key, std::string_view why) const;
  const absl::Status& status() const;

 private:
  struct Document;
  using Element = simdjson::dom::element;
  JsonFields(std::shared_ptr<Document> document, simdjson::dom::object object, std::string prefix);
  // The last value of the key; nullopt when it is absent or null.
  std::optional<Element> Find(std::string_view key) const;
  std::optional<int64_t> CheckedInt(std::string_view key, Element value, IntRange range) const;

  std::shared_ptr<Document> document_;
  simdjson::dom::object object_;
  std::string prefix_;
};

}  // namespace tessera

#endif  // TESSERA_ENGINE_FILES_JSON_FIELDS_H_
