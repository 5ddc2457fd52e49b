// Typed reading of a request's JSON object. null means absent; a wrong type is an error that names
// the field.
#ifndef TESSERA_SERVER_HTTP_OPENAI_API_FIELDS_H_
#define TESSERA_SERVER_HTTP_OPENAI_API_FIELDS_H_

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/text/jinja/value.h"

namespace tessera {

// The object of a request's body: INVALID_ARGUMENT for what is no JSON object, too deep or too
// wide.
absl::StatusOr<jinja::Value> ParseApiBody(std::string_view body);

// Reads the members of one object. The first error is kept; reading on after it does no harm.
class ApiFields {
 public:
  // `path` is put in front of names in errors: "stream_options.". Both outlive this.
  ApiFields(const jinja::Value& object, std::string path, absl::Status* error)
      : object_(object), path_(std::move(path)), error_(error) {}

  // Null when absent or null.
  const jinja::Value* Find(std::string_view name) const;
  bool Has(std::string_view name) const { return Find(name) != nullptr; }

  std::optional<bool> Bool(std::string_view name) const;
  // A JSON integer, or a number with a fraction of zero.
  std::optional<int64_t> Integer(std::string_view name) const;
  std::optional<double> Number(std::string_view name) const;
  std::optional<std::string> Text(std::string_view name) const;
  // Null when absent.
  const jinja::Value* Object(std::string_view name) const;
  const jinja::Value* Array(std::string_view name) const;

  // The same for a value that is no member, under the name that an error gives it.
  std::optional<int64_t> IntegerOf(const jinja::Value& value, std::string_view name) const;

  void Fail(std::string_view name, std::string_view what) const;
  // For fields that this server does not have: refused when they ask for anything.
  void Refuse(std::string_view name, std::string_view why) const;
  bool ok() const { return error_->ok(); }
  const jinja::Value& object() const { return object_; }
  absl::Status* error() const { return error_; }
  const std::string& path() const { return path_; }

 private:
  void WrongType(std::string_view name, std::string_view wanted, const jinja::Value& found) const;

  const jinja::Value& object_;
  const std::string path_;
  absl::Status* const error_;
};

// JSON text of a value without blanks.
absl::StatusOr<std::string> CompactJson(const jinja::Value& value);

}  // namespace tessera

#endif  // TESSERA_SERVER_HTTP_OPENAI_API_FIELDS_H_
