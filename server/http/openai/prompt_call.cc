#include "server/http/openai/prompt_call.h"

#include <utility>

namespace tessera {

PromptCall::PromptCall(InferenceContext* context, v1::GenerateRequest request, Options options)
    : GenerationCall(context, options.method),
      options_(std::move(options)),
      request_(std::move(request)) {}

void PromptCall::Start(const std::shared_ptr<PromptCall>& self, std::string_view traceparent) {
  SetTraceparent(traceparent);
  if (!Arrive({.deadline = absl::InfiniteFuture(), .caller = options_.caller})) return;
  Submit(/*message_bytes=*/0, self);
}

void PromptCall::Advance() {
  if (finished_) return;
  ReportBuffer();
  if (client_gone_) {
    EndEarly(ClientGoneStatus());
    return Finish(*end_);
  }
  if (!options_.stream && !end_.has_value()) return;
  const bool is_too_much =
      options_.stream && output_.bytes() > context_.limits.max_stream_buffer_bytes;
  if (told_ && (!is_too_much || told_too_much_)) return;
  told_ = true;
  told_too_much_ = is_too_much;
  options_.on_news();
}

PromptCall::News PromptCall::Take() {
  absl::MutexLock lock(&mutex_);
  News news;
  if (finished_) return news;
  told_ = told_too_much_ = false;
  // The last piece and the end come together.
  const bool is_whole = end_.has_value() || (options_.stream && num_unfinished_ > 0);
  if (is_whole && !output_.empty()) news.output = output_.Take();
  ReportBuffer();
  news.end = end_;
  if (end_.has_value()) Finish(*end_);
  return news;
}

bool PromptCall::HasTooMuch() {
  absl::MutexLock lock(&mutex_);
  return output_.bytes() > context_.limits.max_stream_buffer_bytes;
}

void PromptCall::Evict() {
  absl::MutexLock lock(&mutex_);
  if (finished_) return;
  context_.metrics->CountSlowReaderEviction();
  const absl::Status status = absl::AbortedError("the client does not read");
  EndEarly(status);
  Finish(status);
}

void PromptCall::Finish(const absl::Status& status) {
  finished_ = true;
  output_ = {};
  ReportBuffer();
  RecordEnd(status);
}

void PromptCall::ReportBuffer() {
  const int64_t bytes = options_.stream ? output_.bytes() : 0;
  if (bytes != reported_bytes_) context_.metrics->AddStreamBufferBytes(bytes - reported_bytes_);
  reported_bytes_ = bytes;
}

}  // namespace tessera
