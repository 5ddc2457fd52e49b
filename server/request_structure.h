// What an answer must look like: from the fields of a request to a compiled structure.
#ifndef TESSERA_SERVER_REQUEST_STRUCTURE_H_
#define TESSERA_SERVER_REQUEST_STRUCTURE_H_

#include "absl/status/status.h"
#include "engine/types.h"
#include "server/served_model.h"

namespace tessera {

namespace v1 {
class GenerateRequest;
}  // namespace v1

// Whether ReadStructure has something to compile, which may take a while.
bool WantsStructure(const v1::GenerateRequest& request);

// Sets out->structure. The rest of `out` has been read; its max_tokens is set. Errors name a field.
absl::Status ReadStructure(const v1::GenerateRequest& request, const ServedModel& model,
                           GenerateRequest* out);

}  // namespace tessera

#endif  // TESSERA_SERVER_REQUEST_STRUCTURE_H_
