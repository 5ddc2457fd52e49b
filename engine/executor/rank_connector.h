// Connects the ranks of one process to each other, and to ranks of other processes.
#ifndef TESSERA_ENGINE_EXECUTOR_RANK_CONNECTOR_H_
#define TESSERA_ENGINE_EXECUTOR_RANK_CONNECTOR_H_

#include <functional>
#include <map>
#include <memory>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "engine/model/rank_links.h"
#include "parallel/carrier/bell.h"
#include "parallel/carrier/carrier.h"
#include "parallel/communicator.h"
#include "parallel/inproc/inproc_communicator.h"
#include "parallel/nccl/gpu_transport.h"
#include "parallel/topology.h"

namespace tessera {

// One rank's end of a group that spans processes. `name` is the same for all ranks of the group.
// Called on the rank's thread; blocks until all ranks of the group call it.
struct RemoteGroup {
  std::string name;
  int rank = 0;
  int size = 0;
};
using ConnectRemote =
    std::function<absl::StatusOr<std::unique_ptr<Communicator>>(const RemoteGroup&, Device*)>;
struct RemoteRanks {
  ConnectRemote connect;
  // Fails what is being connected and what is connected, as far as the transport can. Any thread;
  // may be empty.
  std::function<void(const absl::Status& reason)> abort;
};

// Any thread.
class RankConnector {
 public:
  struct Options {
    MoeComm moe_comm = MoeComm::kAuto;
    absl::Duration timeout = absl::Seconds(60);  // of one operation
    RemoteRanks remote;                          // needed when the layout has several nodes
    std::string backend;                         // of the devices
    std::shared_ptr<Bell> bell;                  // of the carriers, when ranks share threads
  };
  explicit RankConnector(Options options) : options_(std::move(options)) {}

  // A rank that connects. `shared_seat`: where it sits when it shares its thread, or null.
  struct Rank {
    const Topology& topology;
    Device* device;
    Seat* shared_seat;
  };
  // The groups of a rank. Where all ranks of a group live on this node, GPUs exchange directly and
  // CPUs through shared memory.
  absl::StatusOr<RankLinks> Connect(const Rank& rank);
  // A rank will not come, or has failed: the others shall not wait until they time out.
  void Abort(const absl::Status& reason);

 private:
  absl::StatusOr<std::unique_ptr<Communicator>> Join(const std::string& name,
                                                     const std::vector<int>& ranks,
                                                     const Rank& rank);
  // Null when the devices are no GPUs.
  absl::StatusOr<GpuTransport*> Gpus();

  const Options options_;
  absl::Mutex mutex_;
  std::map<std::string, std::shared_ptr<InprocGroup>> groups_ ABSL_GUARDED_BY(mutex_);
  std::unique_ptr<GpuTransport> gpus_ ABSL_GUARDED_BY(mutex_);  // made when it is first needed
  absl::Status aborted_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace tessera

#endif  // TESSERA_ENGINE_EXECUTOR_RANK_CONNECTOR_H_
