// Runs a scheduler through a random history in virtual time and checks every rule at every step.
#ifndef TESSERA_TESTS_ENGINE_SCHEDULER_SIMULATOR_H_
#define TESSERA_TESTS_ENGINE_SCHEDULER_SIMULATOR_H_

#include <cstdint>
#include <string>

namespace tessera {

// Faults put in on purpose; the simulation has to notice each.
enum class SimulatedFault { kNone, kLeakedSequence, kDroppedToken, kRepeatedToken, kLostKvWrite };

struct SimulationStats {
  int64_t steps = 0;
  int64_t tokens = 0;
  int64_t preemptions = 0;
  int64_t cached_tokens = 0;
  int64_t cancelled = 0;
  int64_t expired = 0;
  int64_t finished = 0;
  int64_t discarded_rows = 0;    // drawn for sequences that had ended
  int64_t waits = 0;             // running sequences that had to wait for a token
  int64_t waited_for_lists = 0;  // of penalties, by sequences
};

// Empty when every invariant held, else what broke. Up to `depth` steps are under way. Equal
// arguments give equal histories.
std::string Simulate(uint64_t seed, int32_t depth, SimulatedFault fault, SimulationStats* stats);

}  // namespace tessera

#endif  // TESSERA_TESTS_ENGINE_SCHEDULER_SIMULATOR_H_
