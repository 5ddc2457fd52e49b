// Working through a batch: many lines at a time, each answered once.
#ifndef TESSERA_SERVER_BATCH_BATCH_RUN_H_
#define TESSERA_SERVER_BATCH_BATCH_RUN_H_

#include <cstdint>
#include <functional>
#include <string>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "engine/text/jinja/value.h"
#include "server/batch/answerer.h"
#include "server/batch/batch_output.h"

namespace tessera {

struct BatchProgress {
  int64_t lines = 0;     // of the input that ask for something
  int64_t earlier = 0;   // answered by earlier runs
  int64_t answered = 0;  // by this one, with HTTP status 200
  int64_t failed = 0;    // by this one, with another status or as lines that cannot be read
  int64_t output_tokens = 0;
  double seconds = 0;
};

struct BatchOptions {
  std::string input;
  int32_t concurrency = 32;  // lines at a time
  // Members of every body that does not have them. Outlives the run.
  const jinja::Dict* defaults = nullptr;
  std::function<void(const BatchProgress&)> on_progress;  // may be null
  absl::Duration period = absl::Seconds(1);               // between calls of on_progress
  // Of a line that failed: its number and what is wrong with it. May be null; one call at a time.
  std::function<void(int64_t line, const std::string& problem)> on_failure;
};

// Answers are in the file as soon as they are there, in the order in which they end. An error ends
// the run early; what is answered stays, and a later run goes on behind it. In memory are the lines
// that are worked on (at most 4 MiB each, with their answers) and 16 bytes for every line.
absl::Status RunBatch(const BatchOptions& options, Answerer* answerer, BatchOutput* output,
                      BatchProgress* progress);

}  // namespace tessera

#endif  // TESSERA_SERVER_BATCH_BATCH_RUN_H_
