// How ranks of different processes connect: over the network, meeting in the group's store.
#ifndef TESSERA_ENGINE_EXECUTOR_NETWORK_CONNECTOR_H_
#define TESSERA_ENGINE_EXECUTOR_NETWORK_CONNECTOR_H_

#include <string>

#include "absl/time/time.h"
#include "engine/executor/rank_connector.h"
#include "parallel/rendezvous_store.h"

namespace tessera {

struct NetworkOptions {
  RendezvousStore* store = nullptr;  // outlives the ranks
  std::string host;                  // numeric address of this node for the other ranks
  std::string backend;               // of the devices
  absl::Duration timeout = absl::Seconds(60);
};

RemoteRanks ConnectOverNetwork(NetworkOptions options);

}  // namespace tessera

#endif  // TESSERA_ENGINE_EXECUTOR_NETWORK_CONNECTOR_H_
