// How the commands that ask a running server are told to reach it.
#ifndef TESSERA_SERVER_COMMANDS_TARGET_FLAGS_H_
#define TESSERA_SERVER_COMMANDS_TARGET_FLAGS_H_

#include "server/grpc/client_channel.h"
#include "server/option_table.h"

namespace tessera {

// Everything but the address.
void AddTargetOptions(OptionTable* table, ServerTarget* target);

}  // namespace tessera

#endif  // TESSERA_SERVER_COMMANDS_TARGET_FLAGS_H_
