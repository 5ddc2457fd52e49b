// The transport between ranks of one process: peers read each other's memory directly.
#ifndef TESSERA_PARALLEL_INPROC_INPROC_COMMUNICATOR_H_
#define TESSERA_PARALLEL_INPROC_INPROC_COMMUNICATOR_H_

#include <memory>

#include "absl/time/time.h"
#include "kernels/core/device.h"
#include "parallel/carrier/bell.h"
#include "parallel/carrier/carrier.h"
#include "parallel/communicator.h"

namespace tessera {

struct InprocOptions {
  // How long an operation waits for its peers.
  absl::Duration timeout = absl::Seconds(60);
  // Ranks spin for some microseconds before they sleep when there are at most this many of them;
  // 0: the cores this process may run on. Ranks that share threads never spin.
  int cores = 0;
  std::shared_ptr<Bell> bell;  // of the carriers, when ranks share threads
};

// What the ranks of one group share.
class InprocGroup;
std::shared_ptr<InprocGroup> CreateInprocGroup(int size, const InprocOptions& options = {});

// This rank's end, one per rank. Its device executes its queue on a thread of its own or on the
// thread that enqueues; in both cases operations block that thread until the peers arrive. A rank
// that shares its thread says where it sits, must execute on the thread that enqueues, and lets the
// others run meanwhile. Destroying it leaves the group: peers that still wait for this rank fail
// with UNAVAILABLE.
std::unique_ptr<Communicator> JoinInprocGroup(std::shared_ptr<InprocGroup> group, int rank,
                                              Device* device, Seat* shared_seat = nullptr);

}  // namespace tessera

#endif  // TESSERA_PARALLEL_INPROC_INPROC_COMMUNICATOR_H_
