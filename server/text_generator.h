// One way to ask for text, in this process or over gRPC: generate, client, chat and bench share it.
#ifndef TESSERA_SERVER_TEXT_GENERATOR_H_
#define TESSERA_SERVER_TEXT_GENERATOR_H_

#include <atomic>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "tessera/v1/inference.pb.h"

namespace tessera {

class ModelRuntime;

// Gets every message of a stream, on the calling thread.
using OutputHandler = std::function<void(const v1::GenerateResponse&)>;

// Thread-safe: streams may run at the same time.
class TextGenerator {
 public:
  virtual ~TextGenerator() = default;
  // Blocks until the end. `cancelled` (may be null) is polled; once it is true the answer is
  // CANCELLED.
  virtual absl::Status Stream(const v1::GenerateRequest& request, const OutputHandler& on_output,
                              const std::atomic<bool>* cancelled) = 0;
};

// `runtime` must outlive the generator.
std::unique_ptr<TextGenerator> MakeLocalGenerator(ModelRuntime* runtime);

// Joins a message of a stream to what came before.
void MergeOutput(const v1::GenerateResponse& delta, v1::GenerateResponse* total);

// Streams and returns everything in one message.
absl::StatusOr<v1::GenerateResponse> Generate(TextGenerator& generator,
                                              const v1::GenerateRequest& request);

}  // namespace tessera

#endif  // TESSERA_SERVER_TEXT_GENERATOR_H_
