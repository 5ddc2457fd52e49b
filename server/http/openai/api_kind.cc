#include "server/http/openai/api_kind.h"

#include <array>

namespace tessera {
namespace {

constexpr std::array<ApiKind, 4> kKinds = {ApiKind::kChat, ApiKind::kCompletion,
                                           ApiKind::kResponses, ApiKind::kMessages};

}  // namespace

const ApiKindFacts& FactsOf(ApiKind kind) {
  static constexpr ApiKindFacts kChat = {"/v1/chat/completions", "ChatCompletions", "chatcmpl-",
                                         &ReadChatRequest, &NewChatFormat};
  static constexpr ApiKindFacts kCompletion = {"/v1/completions", "Completions", "cmpl-",
                                               &ReadCompletionRequest, &NewCompletionFormat};
  static constexpr ApiKindFacts kResponses = {"/v1/responses", "Responses", "resp_",
                                              &ReadResponsesRequest, &NewResponsesFormat};
  static constexpr ApiKindFacts kMessages = {"/v1/messages", "Messages", "msg_",
                                             &ReadMessagesRequest, &NewMessagesFormat};
  switch (kind) {
    case ApiKind::kChat:
      return kChat;
    case ApiKind::kCompletion:
      return kCompletion;
    case ApiKind::kResponses:
      return kResponses;
    case ApiKind::kMessages:
      break;
  }
  return kMessages;
}

std::optional<ApiKind> KindOfPath(std::string_view path) {
  for (const ApiKind kind : kKinds) {
    if (path == FactsOf(kind).path) return kind;
  }
  return std::nullopt;
}

}  // namespace tessera
