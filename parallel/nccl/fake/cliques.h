// The state of the stand-in for NCCL: ranks of one process on emulated GPUs.
//
// Calls of a group (or one call) make a launch: one operation of the rank's stream. It runs when
// what it needs of its peers has come to the head of their streams, so that a deadlock on GPUs is
// one here; nothing is ever buffered. Everything is guarded by the fake runtime's mutex.
#ifndef TESSERA_PARALLEL_NCCL_FAKE_CLIQUES_H_
#define TESSERA_PARALLEL_NCCL_FAKE_CLIQUES_H_

#include <nccl.h>

#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "kernels/cuda/emulation/emulator.h"
#include "kernels/cuda/fake/runtime.h"

// Around the functions of the API; compiled against NVIDIA's header they have C names, of which
// there cannot be two with different parameters.
#ifdef TESSERA_NCCL_DECLARATIONS
#define TESSERA_NCCL_BEGIN extern "C++" {
#else
#define TESSERA_NCCL_BEGIN extern "C" {
#endif
#define TESSERA_NCCL_END }

namespace tessera::simt::fake {

enum class Kind : uint8_t { kSend, kRecv, kAllGather, kBroadcast, kAllReduce };

struct Call {
  Kind kind;
  const void* in = nullptr;
  void* out = nullptr;
  size_t count = 0;
  ncclDataType_t type = ncclInt8;
  int peer = 0;         // or the root
  uint64_t number = 0;  // among the rank's collectives, or its sends to (receives from) the peer
  bool done = false;

  bool collective() const { return kind != Kind::kSend && kind != Kind::kRecv; }
  size_t bytes() const;
};

struct Launch {
  std::vector<Call> calls;
  cudaStream_t stream = nullptr;
  uint64_t sequence = 0;    // in the stream
  StreamPosition position;  // once it is at the head of the stream
  std::string error;
};

struct Clique;

}  // namespace tessera::simt::fake

struct ncclComm {
  tessera::simt::fake::Clique* clique = nullptr;  // owns this
  int rank = 0;
  int device = 0;
  bool blocking = true;
  bool aborted = false;
  uint64_t collectives = 0;
  std::vector<uint64_t> sends, receives;  // by peer
  // What a call that does not block has left to be done, at the poll after `polls_left` more.
  std::vector<std::shared_ptr<tessera::simt::fake::Launch>> unfinished;
  int polls_left = 0;
  uint64_t calls = 0;
  std::deque<std::shared_ptr<tessera::simt::fake::Launch>> open;  // in the stream, oldest first
  std::string last_error;
};

namespace tessera::simt::fake {

// Lives as long as a communicator of it, or work of one in a stream.
struct Clique : std::enable_shared_from_this<Clique> {
  std::vector<std::unique_ptr<ncclComm>> ranks;  // null: has not joined
  int joined = 0;
};

// False: never made, destroyed or aborted.
bool IsAlive(ncclComm_t comm) ABSL_EXCLUSIVE_LOCKS_REQUIRED(R().mutex);
bool IsInProgress(const ncclComm& comm) ABSL_EXCLUSIVE_LOCKS_REQUIRED(R().mutex);
ncclResult_t Refuse(ncclComm_t comm, ncclResult_t result, std::string why)
    ABSL_EXCLUSIVE_LOCKS_REQUIRED(R().mutex);
// Puts what is unfinished into the streams.
cudaError_t Finish(ncclComm_t comm) ABSL_EXCLUSIVE_LOCKS_REQUIRED(R().mutex);

// Whether what the launch needs is at the heads of its peers' streams (or it is void).
bool IsReady(ncclComm* comm, Launch* launch) ABSL_EXCLUSIVE_LOCKS_REQUIRED(R().mutex);
// Does it, for the peers too; returns what is wrong. The caller drives.
std::string Execute(ncclComm* comm, const std::shared_ptr<Launch>& launch, const StreamPosition& at)
    ABSL_LOCKS_EXCLUDED(R().mutex);

}  // namespace tessera::simt::fake

#endif  // TESSERA_PARALLEL_NCCL_FAKE_CLIQUES_H_
