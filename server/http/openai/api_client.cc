#include "server/http/openai/api_client.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <optional>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "kernels/core/status_macros.h"
#include "server/http/http_client.h"

namespace tessera {
namespace {

using Json = nlohmann::json;

constexpr size_t kMaxErrorBytes = 4096;

absl::StatusCode CodeOf(int http_status) {
  switch (http_status) {
    case 400:
    case 413:
    case 422:
      return absl::StatusCode::kInvalidArgument;
    case 401:
      return absl::StatusCode::kUnauthenticated;
    case 403:
      return absl::StatusCode::kPermissionDenied;
    case 404:
      return absl::StatusCode::kNotFound;
    case 408:
    case 504:
      return absl::StatusCode::kDeadlineExceeded;
    case 429:
      return absl::StatusCode::kResourceExhausted;
    case 499:
      return absl::StatusCode::kCancelled;
    case 502:
    case 503:
      return absl::StatusCode::kUnavailable;
    default:
      return http_status >= 500 ? absl::StatusCode::kInternal : absl::StatusCode::kUnknown;
  }
}

// {"error": {"message", "code"}}, or whatever else the body says.
absl::Status ErrorOf(int http_status, const std::string& body) {
  const Json json = Json::parse(body, nullptr, /*allow_exceptions=*/false);
  std::string message = body.substr(0, kMaxErrorBytes);
  if (json.is_object() && json.contains("error")) {
    const Json& error = json["error"];
    if (error.is_object() && error.contains("message") && error["message"].is_string()) {
      message = error["message"].get<std::string>();
    }
    if (http_status == 200 && error.is_object() && error.contains("code") &&
        error["code"].is_number_integer()) {
      http_status = error["code"].get<int>();
    }
  }
  const absl::StatusCode code =
      http_status == 200 ? absl::StatusCode::kInternal : CodeOf(http_status);
  return {code, absl::StrCat("HTTP ", http_status, ": ", message)};
}

// Server-sent events of one answer, as they arrive in pieces.
class EventStream {
 public:
  explicit EventStream(const OutputHandler& on_output) : on_output_(on_output) {}

  absl::Status Add(std::string_view bytes) {
    pending_.append(bytes);
    size_t begin = 0;
    for (size_t end = pending_.find('\n'); end != std::string::npos;
         end = pending_.find('\n', begin)) {
      RETURN_IF_ERROR(
          Line(absl::StripAsciiWhitespace(absl::string_view(pending_).substr(begin, end - begin))));
      begin = end + 1;
    }
    pending_.erase(0, begin);
    return absl::OkStatus();
  }

  bool is_done() const { return is_done_; }

 private:
  absl::Status Line(absl::string_view line) {
    if (!absl::ConsumePrefix(&line, "data:")) return absl::OkStatus();
    line = absl::StripLeadingAsciiWhitespace(line);
    if (line == "[DONE]") {
      is_done_ = true;
      return absl::OkStatus();
    }
    const Json json = Json::parse(line, nullptr, /*allow_exceptions=*/false);
    if (!json.is_object()) {
      return absl::InternalError(absl::StrCat("an event is no JSON object: ", line.substr(0, 200)));
    }
    if (json.contains("error")) return ErrorOf(200, std::string(line));
    Chunk(json);
    return absl::OkStatus();
  }

  void Chunk(const Json& json) {
    v1::GenerateResponse response;
    const std::string text = TextOf(json);
    if (!text.empty()) response.add_choices()->set_text(text);
    const auto usage = json.find("usage");
    const bool has_usage = usage != json.end() && usage->is_object();
    if (has_usage) {
      tokens_ = std::max(tokens_, usage->value("completion_tokens", tokens_));
      prompt_tokens_ = usage->value("prompt_tokens", prompt_tokens_);
    } else if (!text.empty()) {
      ++tokens_;
    }
    if (text.empty() && !has_usage) return;
    response.mutable_usage()->set_completion_tokens(tokens_);
    response.mutable_usage()->set_prompt_tokens(prompt_tokens_);
    on_output_(response);
  }

  // Of a chunk of either kind; reasoning is output, too.
  static std::string TextOf(const Json& json) {
    std::string text;
    const auto choices = json.find("choices");
    if (choices == json.end() || !choices->is_array()) return text;
    for (const Json& choice : *choices) {
      const Json delta = choice.is_object() ? choice.value("delta", Json::object()) : Json();
      for (const char* name : {"reasoning_content", "reasoning", "content"}) {
        const auto found = delta.find(name);
        if (found != delta.end() && found->is_string()) text += found->get<std::string>();
        if (!text.empty()) break;  // both names of reasoning say the same
      }
      if (choice.is_object() && choice.contains("text") && choice["text"].is_string()) {
        text += choice["text"].get<std::string>();
      }
    }
    return text;
  }

  const OutputHandler& on_output_;
  std::string pending_;
  int32_t tokens_ = 0;
  int32_t prompt_tokens_ = 0;
  bool is_done_ = false;
};

class ApiClient final : public TextGenerator {
 public:
  ApiClient(HttpUrl url, ApiClientOptions options)
      : client_(std::move(url)), options_(std::move(options)) {}

  absl::Status FindModel() {
    if (!options_.model.empty()) return absl::OkStatus();
    std::string body;
    RETURN_IF_ERROR(Ask({.path = "/models"}, [&body](std::string_view bytes) {
      body.append(bytes);
      return absl::OkStatus();
    }));
    const Json json = Json::parse(body, nullptr, /*allow_exceptions=*/false);
    const Json models = json.is_object() ? json.value("data", Json::array()) : Json();
    if (!models.is_array() || models.empty() || !models[0].is_object() ||
        !models[0].contains("id") || !models[0]["id"].is_string()) {
      return absl::NotFoundError(absl::StrCat(client_.url().authority, client_.url().path,
                                              "/models names no model; say which with --model"));
    }
    options_.model = models[0]["id"].get<std::string>();
    return absl::OkStatus();
  }

  absl::Status Stream(const v1::GenerateRequest& request, const OutputHandler& on_output,
                      const std::atomic<bool>* cancelled) override {
    EventStream events(on_output);
    RETURN_IF_ERROR(Ask({.method = "POST",
                         .path = request.has_chat() ? "/chat/completions" : "/completions",
                         .body = BodyOf(request),
                         .cancelled = cancelled},
                        [&events](std::string_view bytes) { return events.Add(bytes); }));
    if (events.is_done()) return absl::OkStatus();
    return absl::UnavailableError("the stream ended before its end ([DONE])");
  }

 private:
  std::string BodyOf(const v1::GenerateRequest& request) const {
    Json json = {{"model", options_.model},
                 {"stream", true},
                 {"stream_options", {{"include_usage", true}, {"continuous_usage_stats", true}}}};
    if (request.has_chat()) {
      Json messages = Json::array();
      for (const v1::ChatMessage& message : request.chat().messages()) {
        messages.push_back({{"role", message.role()}, {"content", message.content()}});
      }
      json["messages"] = std::move(messages);
    } else if (request.has_token_ids()) {
      json["prompt"] =
          std::vector<int32_t>(request.token_ids().ids().begin(), request.token_ids().ids().end());
    } else {
      json["prompt"] = request.text();
    }
    if (request.sampling().has_temperature()) {
      json["temperature"] = request.sampling().temperature();
    }
    if (request.stopping().has_max_tokens()) json["max_tokens"] = request.stopping().max_tokens();
    if (request.stopping().ignore_eos()) json["ignore_eos"] = true;
    return json.dump(-1, ' ', false, Json::error_handler_t::replace);
  }

  // `on_body` gets the body of an answer that is 200; what else comes is the error.
  absl::Status Ask(HttpCall call, const std::function<absl::Status(std::string_view)>& on_body) {
    call.path = client_.url().path + call.path;
    call.timeout = options_.timeout;
    call.headers = {{"Accept", "text/event-stream, application/json"}};
    if (!call.body.empty()) call.headers.push_back({"Content-Type", "application/json"});
    if (!options_.authorization.empty()) {
      call.headers.push_back({"Authorization", options_.authorization});
    }
    std::string error;
    int status = 0;
    RETURN_IF_ERROR(client_.Call(call, [&](const HttpAnswerHead& head, std::string_view bytes) {
      status = head.status;
      if (status == 200) return on_body(bytes);
      error.append(bytes.substr(0, kMaxErrorBytes - std::min(kMaxErrorBytes, error.size())));
      return absl::OkStatus();
    }));
    return status == 200 ? absl::OkStatus() : ErrorOf(status, error);
  }

  HttpClient client_;
  ApiClientOptions options_;  // changes before the first Stream only
};

}  // namespace

absl::Status CheckApiUrl(const std::string& url) { return ParseHttpUrl(url).status(); }

absl::StatusOr<std::unique_ptr<TextGenerator>> MakeApiClient(const ApiClientOptions& options) {
  ASSIGN_OR_RETURN(HttpUrl url, ParseHttpUrl(options.url));
  if (url.path.empty()) url.path = "/v1";
  auto client = std::make_unique<ApiClient>(std::move(url), options);
  RETURN_IF_ERROR(client->FindModel());
  return client;
}

}  // namespace tessera
