#include <algorithm>
#include <nlohmann/json.hpp>
#include <string_view>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "kernels/core/monotonic_time.h"
#include "kernels/core/status_macros.h"
#include "server/batch/answerer.h"
#include "server/http/http_client.h"
#include "server/http/http_error.h"
#include "server/http/openai/api_kind.h"
#include "server/retry_delay.h"

namespace tessera {
namespace {

using Json = nlohmann::json;

constexpr absl::Duration kLongestPause = absl::Seconds(8);
// Answers are held in memory until they are written.
constexpr size_t kMaxAnswerBytes = 64 << 20;

bool IsPassing(int http_status) {
  return http_status == 429 || http_status == 502 || http_status == 503;
}

// These are about the caller, and so the same for every line.
bool IsAboutCaller(int http_status) { return http_status == 401 || http_status == 403; }

class RemoteAnswerer final : public Answerer {
 public:
  RemoteAnswerer(HttpUrl url, RemoteAnswererOptions options)
      : client_(std::move(url)), options_(std::move(options)) {}

  absl::StatusOr<BatchAnswer> Answer(int64_t line, const BatchRequest& request) override {
    WaitLimit patience(options_.patience);
    absl::Duration pause = kLeastRetryDelay;
    while (true) {
      BatchAnswer answer{.line = line, .custom_id = request.custom_id};
      const absl::Status status = Ask(request, &answer);
      const absl::Status passing = status.ok() ? Passing(answer) : status;
      if (passing.ok()) return Finished(std::move(answer));
      if (absl::IsDeadlineExceeded(passing) || absl::IsResourceExhausted(passing)) {
        answer.http_status = absl::IsDeadlineExceeded(passing) ? 504 : 502;
        answer.body = HttpErrorJson(
            {.status = answer.http_status, .message = std::string(passing.message())});
        return answer;
      }
      if (!absl::IsUnavailable(passing) || patience.left() == absl::ZeroDuration()) return passing;
      absl::SleepFor(std::min(pause, patience.left()));
      pause = std::min(2 * pause, kLongestPause);
    }
  }

 private:
  absl::Status Ask(const BatchRequest& request, BatchAnswer* answer) {
    HttpCall call{.method = "POST",
                  .path = client_.url().path + FactsOf(request.kind).path,
                  .headers = {{"Content-Type", "application/json"},
                              {"x-request-id", BatchRequestId(answer->line)}},
                  .body = request.body,
                  .timeout = options_.timeout};
    if (!options_.authorization.empty()) {
      call.headers.push_back({"Authorization", options_.authorization});
    }
    return client_.Call(call, [answer](const HttpAnswerHead& head, std::string_view bytes) {
      answer->http_status = head.status;
      if (answer->body.size() + bytes.size() > kMaxAnswerBytes) {
        return absl::ResourceExhaustedError("an answer is larger than 64 MiB");
      }
      answer->body.append(bytes);
      return absl::OkStatus();
    });
  }

  // OK: the answer is one. UNAVAILABLE: it may be another one later.
  absl::Status Passing(const BatchAnswer& answer) const {
    const std::string said = absl::StrCat(client_.url().authority, " says HTTP ",
                                          answer.http_status, ": ", answer.body.substr(0, 500));
    if (IsPassing(answer.http_status)) return absl::UnavailableError(said);
    if (IsAboutCaller(answer.http_status)) return absl::PermissionDeniedError(said);
    return absl::OkStatus();
  }

  // The body in one line, and what it says of tokens.
  static absl::StatusOr<BatchAnswer> Finished(BatchAnswer answer) {
    const Json json = Json::parse(answer.body, nullptr, /*allow_exceptions=*/false);
    if (json.is_discarded()) {
      answer.body = Json(answer.body).dump(-1, ' ', false, Json::error_handler_t::replace);
      return answer;
    }
    if (absl::StrContains(answer.body, '\n')) {
      answer.body = json.dump(-1, ' ', false, Json::error_handler_t::replace);
    }
    if (!json.is_object() || !json.contains("usage") || !json["usage"].is_object()) return answer;
    for (const char* name : {"completion_tokens", "output_tokens"}) {
      const auto found = json["usage"].find(name);
      if (found == json["usage"].end() || !found->is_number_integer()) continue;
      answer.output_tokens = found->get<int64_t>();
    }
    return answer;
  }

  HttpClient client_;
  const RemoteAnswererOptions options_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Answerer>> MakeRemoteAnswerer(const RemoteAnswererOptions& options) {
  ASSIGN_OR_RETURN(HttpUrl url, ParseHttpUrl(options.url));
  if (absl::EndsWith(url.path, "/v1")) url.path.resize(url.path.size() - 3);
  return std::make_unique<RemoteAnswerer>(std::move(url), options);
}

}  // namespace tessera
