// tessera bench thinking: what AUTO saves and what it costs.
#ifndef TESSERA_SERVER_COMMANDS_BENCH_THINKING_H_
#define TESSERA_SERVER_COMMANDS_BENCH_THINKING_H_

#include "server/commands/command.h"

namespace tessera {

int RunBenchThinking(const Arguments& arguments);

}  // namespace tessera

#endif  // TESSERA_SERVER_COMMANDS_BENCH_THINKING_H_
