// Who answers the lines of a batch: the model in this process, or a server.
#ifndef TESSERA_SERVER_BATCH_ANSWERER_H_
#define TESSERA_SERVER_BATCH_ANSWERER_H_

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "server/batch/batch_line.h"
#include "server/batch/batch_output.h"
#include "server/served_model.h"
#include "server/text_generator.h"

namespace tessera {

// Thread-safe.
class Answerer {
 public:
  virtual ~Answerer() = default;
  // Blocks. What is wrong with the request is an answer, with the HTTP status that a server would
  // send. An error is about whoever answers: no other line would be answered either.
  virtual absl::StatusOr<BatchAnswer> Answer(int64_t line, const BatchRequest& request) = 0;
};

// Both outlive the answerer.
std::unique_ptr<Answerer> MakeLocalAnswerer(TextGenerator* generator, const ServedModel* model);

struct RemoteAnswererOptions {
  std::string url;                                    // http://HOST:PORT, "/v1" behind it or not
  std::string authorization;                          // the header; empty: none is sent
  absl::Duration timeout = absl::InfiniteDuration();  // of one request
  // How long a server may be away or refuse for want of room before that is an error.
  absl::Duration patience = absl::Minutes(2);
};

// INVALID_ARGUMENT for a URL that is none.
absl::StatusOr<std::unique_ptr<Answerer>> MakeRemoteAnswerer(const RemoteAnswererOptions& options);

}  // namespace tessera

#endif  // TESSERA_SERVER_BATCH_ANSWERER_H_
