// Collects what is wrong with a request, field by field.
#ifndef TESSERA_SERVER_FIELD_VIOLATIONS_H_
#define TESSERA_SERVER_FIELD_VIOLATIONS_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace tessera {

// Type URL of the google.rpc.BadRequest that a status from FieldViolations carries as payload.
inline constexpr absl::string_view kBadRequestTypeUrl = "type.googleapis.com/google.rpc.BadRequest";

// Bounds of an integer field; both ends belong to it.
struct FieldRange {
  int64_t low;
  int64_t high;
};

// Bounds of a floating-point field; both ends belong to it unless low_open.
struct RealRange {
  double low;
  double high;
  bool low_open = false;
};

class FieldViolations {
 public:
  // `field` is the path from the request message: "sampling.top_p".
  void Add(std::string field, std::string description);

  // True when the value is in range; otherwise a violation is added.
  bool CheckInt(std::string_view field, int64_t value, FieldRange range);
  // NaN and infinities are never in range.
  bool CheckReal(std::string_view field, double value, RealRange range);

  bool empty() const { return entries_.empty(); }
  // OK, or an error whose message lists the violations and whose payload has them typed.
  absl::Status ToStatus(absl::StatusCode code = absl::StatusCode::kInvalidArgument) const;

 private:
  // The error travels in trailers of at most 8 KiB.
  static constexpr size_t kMaxKept = 8;
  static constexpr size_t kMaxDescriptionBytes = 200;
  std::vector<std::pair<std::string, std::string>> entries_;
};

// One violation as a status.
absl::Status FieldError(std::string field, std::string description,
                        absl::StatusCode code = absl::StatusCode::kInvalidArgument);

}  // namespace tessera

#endif  // TESSERA_SERVER_FIELD_VIOLATIONS_H_
