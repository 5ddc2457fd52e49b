// Range checks of the plain fields of a request, before anything is tokenised.
#ifndef TESSERA_SERVER_REQUEST_FIELDS_H_
#define TESSERA_SERVER_REQUEST_FIELDS_H_

#include <cstdint>
#include <string>
#include <vector>

#include "engine/types.h"
#include "server/field_violations.h"
#include "server/request_builder.h"
#include "server/served_model.h"
#include "tessera/v1/inference.pb.h"

namespace tessera {

// Fills everything of `out` that needs no tokeniser; unset fields take the model's defaults.
void ReadPlainFields(const v1::GenerateRequest& request, const ServedModel& model,
                     const RequestLimits& limits, GenerateRequest* out,
                     FieldViolations* violations);

// Checks the ids against the vocabulary and appends them.
void ReadTokenIds(const google::protobuf::RepeatedField<int64_t>& ids, const std::string& field,
                  int32_t vocab_size, std::vector<int32_t>* out, FieldViolations* violations);

// Roles, tools and counts. `field` is "chat".
void CheckChat(const v1::ChatPrompt& chat, const RequestLimits& limits,
               FieldViolations* violations);

}  // namespace tessera

#endif  // TESSERA_SERVER_REQUEST_FIELDS_H_
