// Memory on the GPUs of a group that all of its ranks reach: ranks of one host, whose GPUs have
// access to each other's memory. Ranks of one process share pointers, others open handles.
#ifndef TESSERA_PARALLEL_NCCL_PEER_MEMORY_H_
#define TESSERA_PARALLEL_NCCL_PEER_MEMORY_H_

#include <cuda_runtime.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "kernels/cuda/cuda_device.h"
#include "kernels/cuda/kernels/peer_memory.h"
#include "parallel/nccl/nccl_group.h"
#include "parallel/rendezvous_store.h"

namespace tessera::cuda {

// Windows on the GPUs of a process. They outlive each rank's use of its own one, because a kernel
// of a peer that comes late may still write there. Any thread.
class PeerWindows {
 public:
  PeerWindows() = default;
  PeerWindows(const PeerWindows&) = delete;
  PeerWindows& operator=(const PeerWindows&) = delete;
  // Frees them, but for those that another process may have open: these go with this process.
  ~PeerWindows();

  // Cleared. Not OK without room.
  absl::StatusOr<char*> Allocate(CudaDevice& device, size_t bytes);
  void KeepForever(const char* window);
  // Of the current GPU, unless it is kept. Waits for the GPU.
  void Free(char* window);

 private:
  struct Window {
    int device;
    char* data;
  };

  absl::Mutex mutex_;
  std::vector<Window> windows_ ABSL_GUARDED_BY(mutex_);
};

// One rank's end. Used by the thread that drives the device, but for Stop.
class PeerMemory {
 public:
  struct Member {
    int rank = 0;
    CudaDevice* device = nullptr;
    RendezvousStore* store = nullptr;
    absl::Duration timeout = absl::Seconds(60);  // for each of two meetings
  };
  // Blocks until all ranks of the group call it. Null on all ranks when it cannot be: they are too
  // many or on several hosts, a GPU has no access to another one's memory, or no room.
  // DEADLINE_EXCEEDED when a rank does not come.
  static absl::StatusOr<std::unique_ptr<PeerMemory>> Join(NcclGroup& group, const Member& member);
  ~PeerMemory();
  PeerMemory(const PeerMemory&) = delete;
  PeerMemory& operator=(const PeerMemory&) = delete;

  // Memory that all ranks have, besides the windows.
  struct Region {
    int64_t bytes = 0;
    char* memory[kMaxPeers] = {};
  };
  // What a rank tells the others of its part of one.
  struct Share {
    char* memory;  // null: none
    cudaIpcMemHandle_t handle;
  };
  Share MakeShare(int64_t bytes);
  // Opens the parts of all ranks, this one's too. False: they cannot all be reached.
  bool OpenShares(absl::Span<const Share> shares, Region* region);
  // When all ranks could. Else: Forget.
  void Add(const Region& region) { regions_.push_back(region); }
  void Forget(const Share& own) { windows_->Free(own.memory); }
  // The one that holds all these bytes; null: none.
  const Region* Find(const void* begin, int64_t bytes) const;

  const PeerGroup& group() const { return group_; }
  int blocks() const { return blocks_; }  // of one kernel, at most
  // Kernels wait for no peer any more. Any thread.
  void Stop();

 private:
  struct Offer;

  explicit PeerMemory(CudaDevice* device) : device_(device) {}
  // What this rank has to offer; without a window when it has none.
  Offer MakeOffer(NcclGroup& group, const Member& member);
  absl::Status Prepare(NcclGroup& group, const Member& member, Offer* offer);
  absl::Status Open(const Offer& own, const std::vector<Offer>& offers);
  absl::Status Reach(const Offer& own, const Offer& peer, int rank);
  absl::StatusOr<char*> OpenHandle(const cudaIpcMemHandle_t& handle);

  CudaDevice* const device_;
  std::shared_ptr<PeerWindows> windows_;
  PeerGroup group_{};
  int blocks_ = 0;
  uint32_t* stop_ = nullptr;    // mapped host memory
  bool local_[kMaxPeers] = {};  // ranks of this process
  std::vector<char*> opened_;   // memory of other processes
  std::vector<Region> regions_;
};

}  // namespace tessera::cuda

#endif  // TESSERA_PARALLEL_NCCL_PEER_MEMORY_H_
