// tessera bench serve, and how every kind of bench ends.
#ifndef TESSERA_SERVER_COMMANDS_BENCH_SERVE_H_
#define TESSERA_SERVER_COMMANDS_BENCH_SERVE_H_

#include "server/commands/bench_report.h"
#include "server/commands/command.h"

namespace tessera {

// `arguments` are those behind "serve".
int RunBenchServe(const Arguments& arguments);

// Prints the report; fails when no request succeeded.
int FinishBench(const BenchReport& report, bool json);

}  // namespace tessera

#endif  // TESSERA_SERVER_COMMANDS_BENCH_SERVE_H_
