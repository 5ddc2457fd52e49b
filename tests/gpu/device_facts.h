// What GPUs a machine has, and what the first one can do at most.
#ifndef TESSERA_TESTS_GPU_DEVICE_FACTS_H_
#define TESSERA_TESTS_GPU_DEVICE_FACTS_H_

#include <string>

namespace tessera {

// Exit code of programs that have nothing to run on; test runners take it as "skipped".
inline constexpr int kExitNoGpu = 77;

// Writes a JSON object into the file `path`: versions of driver and runtime; of every GPU its name,
// memory, clocks and the GPUs whose memory it can reach; of the first one the measured rates of
// copies and launches. The exit code of a program; kExitNoGpu after a sentence on stderr.
int WriteDeviceFacts(const std::string& path);

}  // namespace tessera

#endif  // TESSERA_TESTS_GPU_DEVICE_FACTS_H_
