// The transport between processes and hosts: TCP by Gloo. Gloo only moves bytes; sums are ours, so
// their bits equal those of the in-process transport.
//
// Connections are neither encrypted nor authenticated: bind to an interface of a trusted network.
#ifndef TESSERA_PARALLEL_GLOO_GLOO_COMMUNICATOR_H_
#define TESSERA_PARALLEL_GLOO_GLOO_COMMUNICATOR_H_

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "kernels/core/device.h"
#include "parallel/communicator.h"
#include "parallel/rendezvous_store.h"

namespace tessera {

// The network end of this process: one I/O thread, shared by all ranks and groups of the process.
class GlooEndpoint;

struct GlooEndpointOptions {
  // One of them: "eth0", or an address or host name that belongs to this host.
  std::string interface;
  std::string address;
};
// INVALID_ARGUMENT unless one of the two is given, UNAVAILABLE when there is no such interface or
// address. The process ignores SIGPIPE from then on, unless it handles it already.
absl::StatusOr<std::shared_ptr<GlooEndpoint>> CreateGlooEndpoint(
    const GlooEndpointOptions& options);

struct GlooGroup {
  std::string name;  // the same on all ranks; used once per store
  int rank = 0;
  int size = 1;
  // How long connecting, and later every operation, waits for the peers.
  absl::Duration connect_timeout = absl::Seconds(60);
  absl::Duration timeout = absl::Seconds(60);
};

// Connects this rank with all others of the group; blocks until they are there. Only used during
// the call: `store`. `device` must outlive the communicator. DEADLINE_EXCEEDED when a rank does not
// come, UNAVAILABLE when a connection fails. After a failure the group cannot be used again.
absl::StatusOr<std::unique_ptr<Communicator>> JoinGlooGroup(std::shared_ptr<GlooEndpoint> endpoint,
                                                            RendezvousStore* store,
                                                            const GlooGroup& group, Device* device);

}  // namespace tessera

#endif  // TESSERA_PARALLEL_GLOO_GLOO_COMMUNICATOR_H_
