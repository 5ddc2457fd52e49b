// A request of /v1/chat/completions, /v1/completions or /v1/responses, from its body to the last
// byte of its answer.
#ifndef TESSERA_SERVER_HTTP_OPENAI_API_GENERATION_H_
#define TESSERA_SERVER_HTTP_OPENAI_API_GENERATION_H_

#include <memory>

#include "server/http/http_exchange.h"
#include "server/http/openai/api_request.h"
#include "server/inference_context.h"

namespace tessera {

// On the listener's thread. Large bodies are read by the context's workers. A client that goes
// cancels what is generated for it.
void StartApiGeneration(InferenceContext* context, std::shared_ptr<HttpExchange> exchange,
                        ApiKind kind, Caller caller);

}  // namespace tessera

#endif  // TESSERA_SERVER_HTTP_OPENAI_API_GENERATION_H_
