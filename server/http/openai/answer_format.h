// The answers of a route: one JSON object, or the events of a stream.
#ifndef TESSERA_SERVER_HTTP_OPENAI_ANSWER_FORMAT_H_
#define TESSERA_SERVER_HTTP_OPENAI_ANSWER_FORMAT_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "server/http/http_error.h"
#include "server/http/openai/answer_json.h"
#include "tessera/v1/inference.pb.h"

namespace tessera {

// The output of one prompt: all of it, or what is new.
struct PromptOutput {
  v1::GenerateResponse response;
  std::vector<int32_t> prompt_ids;  // where the answer shows them
};

// Of one request. Not thread-safe.
class AnswerFormat {
 public:
  virtual ~AnswerFormat() = default;

  // One entry per prompt, whole.
  virtual std::string Whole(const std::vector<PromptOutput>& outputs) = 0;
  // Appends the events of new output of prompt `index`; joined over a stream they say the same as
  // Whole().
  virtual void AppendEvents(size_t index, const PromptOutput& output, std::string* events) = 0;
  // What ends a stream with an error.
  virtual void AppendFailure(const HttpError& error, std::string* events);
  // What ends a stream without an error. `usage`: of all prompts together.
  virtual void AppendEnd(const v1::Usage& usage, std::string* events) = 0;
};

// `facts` outlives the format.
std::unique_ptr<AnswerFormat> NewChatFormat(const AnswerFacts* facts);
std::unique_ptr<AnswerFormat> NewCompletionFormat(const AnswerFacts* facts);
std::unique_ptr<AnswerFormat> NewResponsesFormat(const AnswerFacts* facts);
std::unique_ptr<AnswerFormat> NewMessagesFormat(const AnswerFacts* facts);

// Appends "data: JSON" and an empty line.
void AppendEvent(const std::string& json, std::string* events);
// Of all prompts: the sums.
v1::Usage TotalUsage(const std::vector<v1::Usage>& usages);

}  // namespace tessera

#endif  // TESSERA_SERVER_HTTP_OPENAI_ANSWER_FORMAT_H_
