// Answers of the calls that only describe the server.
#ifndef TESSERA_SERVER_SERVER_FACTS_H_
#define TESSERA_SERVER_SERVER_FACTS_H_

#include "server/inference_context.h"
#include "server/served_model.h"
#include "tessera/v1/inference.pb.h"

namespace tessera {

v1::GetModelInfoResponse ModelFacts(const ServedModel& model);
// Without grpc_version.
v1::GetServerInfoResponse ServerFacts(const InferenceContext& context);
v1::GetLoadResponse LoadFacts(const InferenceContext& context);

}  // namespace tessera

#endif  // TESSERA_SERVER_SERVER_FACTS_H_
