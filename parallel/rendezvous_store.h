// Where ranks of different processes leave their addresses for each other before a transport
// connects them.
#ifndef TESSERA_PARALLEL_RENDEZVOUS_STORE_H_
#define TESSERA_PARALLEL_RENDEZVOUS_STORE_H_

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace tessera {

// Keys are written once. Any thread.
class RendezvousStore {
 public:
  virtual ~RendezvousStore() = default;

  // ALREADY_EXISTS when the key has a different value, RESOURCE_EXHAUSTED when the store is full,
  // UNAVAILABLE when the group has failed.
  virtual absl::Status Set(const std::string& key, const std::string& value) = 0;
  // Waits until somebody has set the key. DEADLINE_EXCEEDED names the key; UNAVAILABLE when the
  // group fails meanwhile.
  virtual absl::StatusOr<std::string> Get(const std::string& key, absl::Time deadline) = 0;
};

}  // namespace tessera

#endif  // TESSERA_PARALLEL_RENDEZVOUS_STORE_H_
