#include "server/field_violations.h"

#include <cmath>

#include "absl/strings/cord.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "tessera/v1/error_details.pb.h"

namespace tessera {

void FieldViolations::Add(std::string field, std::string description) {
  if (entries_.size() >= kMaxKept) return;
  if (description.size() > kMaxDescriptionBytes) {
    size_t end = kMaxDescriptionBytes;
    while (end > 0 && (static_cast<unsigned char>(description[end]) & 0xC0) == 0x80) --end;
    description.resize(end);
    description += "...";
  }
  entries_.emplace_back(std::move(field), std::move(description));
}

bool FieldViolations::CheckInt(std::string_view field, int64_t value, FieldRange range) {
  if (value >= range.low && value <= range.high) return true;
  Add(std::string(field),
      absl::StrCat("must be in [", range.low, ", ", range.high, "], got ", value));
  return false;
}

bool FieldViolations::CheckReal(std::string_view field, double value, RealRange range) {
  const bool above_low = range.low_open ? value > range.low : value >= range.low;
  if (std::isfinite(value) && above_low && value <= range.high) return true;
  Add(std::string(field), absl::StrCat("must be in ", range.low_open ? "(" : "[", range.low, ", ",
                                       range.high, "], got ", value));
  return false;
}

absl::Status FieldViolations::ToStatus(absl::StatusCode code) const {
  if (entries_.empty()) return absl::OkStatus();
  v1::BadRequest details;
  for (const auto& [field, description] : entries_) {
    v1::BadRequest::FieldViolation* violation = details.add_field_violations();
    violation->set_field(field);
    violation->set_description(description);
  }
  absl::Status status(code, absl::StrJoin(entries_, "; ", absl::PairFormatter(": ")));
  status.SetPayload(kBadRequestTypeUrl, absl::Cord(details.SerializeAsString()));
  return status;
}

absl::Status FieldError(std::string field, std::string description, absl::StatusCode code) {
  FieldViolations violations;
  violations.Add(std::move(field), std::move(description));
  return violations.ToStatus(code);
}

}  // namespace tessera
