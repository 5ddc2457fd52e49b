#include "server/grpc/status_mapping.h"

#include <string>

#include "absl/strings/cord.h"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "server/field_violations.h"
#include "server/retry_delay.h"
#include "tessera/v1/error_details.pb.h"

namespace tessera {
namespace {

constexpr absl::string_view kRetryInfoTypeUrl = "type.googleapis.com/google.rpc.RetryInfo";
// Trailers have 8 KiB together.
constexpr size_t kMaxMessageBytes = 1024;

std::string Shortened(absl::string_view message) {
  if (message.size() <= kMaxMessageBytes) return std::string(message);
  size_t end = kMaxMessageBytes;
  while (end > 0 && (static_cast<unsigned char>(message[end]) & 0xC0) == 0x80) --end;
  return absl::StrCat(message.substr(0, end), "...");
}

}  // namespace

grpc::Status ToGrpcStatus(const absl::Status& status, grpc::CallbackServerContext* context) {
  if (status.ok()) return grpc::Status::OK;
  const std::string message = Shortened(status.message());
  v1::StatusDetails details;
  details.set_code(static_cast<int>(status.code()));
  details.set_message(message);
  if (const auto payload = status.GetPayload(kBadRequestTypeUrl)) {
    google::protobuf::Any* any = details.add_details();
    any->set_type_url(std::string(kBadRequestTypeUrl));
    any->set_value(std::string(*payload));
  }
  // What is wrong with the request itself is not better later.
  if (absl::IsResourceExhausted(status) && details.details().empty()) {
    const absl::Duration delay = RetryDelayOf(status);
    const int64_t seconds = absl::ToInt64Seconds(delay);
    v1::RetryInfo retry;
    retry.mutable_retry_delay()->set_seconds(seconds);
    retry.mutable_retry_delay()->set_nanos(
        static_cast<int32_t>(absl::ToInt64Nanoseconds(delay - absl::Seconds(seconds))));
    google::protobuf::Any* any = details.add_details();
    any->set_type_url(std::string(kRetryInfoTypeUrl));
    any->set_value(retry.SerializeAsString());
    context->AddTrailingMetadata("grpc-retry-pushback-ms",
                                 absl::StrCat(absl::ToInt64Milliseconds(delay)));
  }
  const auto code = static_cast<grpc::StatusCode>(status.code());
  if (details.details().empty()) return {code, message};
  return {code, message, details.SerializeAsString()};
}

}  // namespace tessera
