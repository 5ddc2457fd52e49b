// The beam search that a request asks for.
#ifndef TESSERA_SERVER_REQUEST_BEAMS_H_
#define TESSERA_SERVER_REQUEST_BEAMS_H_

#include "engine/types.h"
#include "server/field_violations.h"
#include "tessera/v1/inference.pb.h"

namespace tessera {

// Reads `beams` and what of the other fields has another meaning beside it: call when these have
// been read. One beam is no search but a greedy answer.
void ReadBeams(const v1::GenerateRequest& request, GenerateRequest* out,
               FieldViolations* violations);

}  // namespace tessera

#endif  // TESSERA_SERVER_REQUEST_BEAMS_H_
