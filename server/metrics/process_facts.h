// What the kernel says about this process.
#ifndef TESSERA_SERVER_METRICS_PROCESS_FACTS_H_
#define TESSERA_SERVER_METRICS_PROCESS_FACTS_H_

namespace tessera {

// What could not be read is 0.
struct ProcessFacts {
  double cpu_seconds = 0;
  double resident_bytes = 0;
  double virtual_bytes = 0;
  double open_files = 0;
  double max_files = 0;
  double threads = 0;
  double start_time = 0;  // seconds since 1970
};

ProcessFacts ReadProcessFacts();

}  // namespace tessera

#endif  // TESSERA_SERVER_METRICS_PROCESS_FACTS_H_
