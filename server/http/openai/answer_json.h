// Parts of answers that several routes share.
#ifndef TESSERA_SERVER_HTTP_OPENAI_ANSWER_JSON_H_
#define TESSERA_SERVER_HTTP_OPENAI_ANSWER_JSON_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "server/http/openai/api_request.h"
#include "server/prompt_encoder.h"
#include "tessera/v1/inference.pb.h"

namespace tessera {

// What every object of one answer has.
struct AnswerFacts {
  const ApiRequest* request = nullptr;
  const PromptEncoder* encoder = nullptr;
  std::string id;
  std::string model;
  int64_t created = 0;  // seconds since 1970
};

// `{"id":…,"object":…,"created":…,"model":…,"system_fingerprint":…`, to be continued.
void AppendAnswerHead(const AnswerFacts& facts, std::string_view object, std::string* json);
// The object of token counts.
void AppendUsage(const v1::Usage& usage, std::string* json);
// A float as its shortest decimal; -infinity as -9999.0, as others do.
void AppendLogprob(float value, std::string* json);
void AppendIds(const google::protobuf::RepeatedField<int32_t>& ids, std::string* json);
// `"finish_reason":…,"stop_reason":…`; null while the choice goes on. Behind them
// `"thinking_budget_enforced":true` where it was, and `"confidence":{…}` where it is asked for.
void AppendFinish(const v1::Choice& choice, const v1::StoppingOptions& stopping, std::string* json);
// `,"reasoning_steps":[…]` of the message that ends the choice.
void AppendSteps(const v1::Choice& choice, std::string* json);
// `,"thinking":{"mode","thinks","reason"}`.
void AppendThinking(const v1::ThinkingChoice& thinking, std::string* json);
// A token as text in quotes; "token_id:17" where the client wants that.
void AppendToken(const AnswerFacts& facts, int32_t id, std::string* json);
// {"content":[{token,logprob,bytes,top_logprobs}…]}.
void AppendChatLogprobs(const AnswerFacts& facts,
                        const google::protobuf::RepeatedPtrField<v1::TokenLogprobs>& tokens,
                        std::string* json);
// [null, {id:{logprob,rank,decoded_token}}…].
void AppendPromptLogprobs(const AnswerFacts& facts,
                          const google::protobuf::RepeatedPtrField<v1::TokenLogprobs>& tokens,
                          std::string* json);

// Characters of a text.
int64_t CountCharacters(std::string_view utf8);

}  // namespace tessera

#endif  // TESSERA_SERVER_HTTP_OPENAI_ANSWER_JSON_H_
