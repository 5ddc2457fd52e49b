// The transport between GPUs: NCCL moves bytes, and sums are ours, in rank order, so their bits
// equal those of the transports between CPUs. NCCL's own reductions round at every hop, in an order
// that depends on the place, and are never used.
//
// Ranks that reach each other's memory do small sums, and exchanges into memory that they share, by
// kernels of their own (PeerMemory).
//
// Everything is enqueued on the device's stream. AllToAllV by NCCL alone waits for it: NCCL wants
// counts on the host.
#ifndef TESSERA_PARALLEL_NCCL_NCCL_COMMUNICATOR_H_
#define TESSERA_PARALLEL_NCCL_NCCL_COMMUNICATOR_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "kernels/cuda/cuda_device.h"
#include "parallel/communicator.h"
#include "parallel/nccl/nccl_group.h"
#include "parallel/nccl/nccl_library.h"
#include "parallel/nccl/peer_memory.h"
#include "parallel/nccl/stream_times.h"
#include "parallel/rendezvous_store.h"

namespace tessera::cuda {

struct NcclOptions {
  // How long connecting, and later an operation that the GPU has come to, waits for the peers.
  absl::Duration connect_timeout = absl::Seconds(60);
  absl::Duration timeout = absl::Seconds(60);
  // Memory on the GPU where the summands of all ranks meet; larger sums are made piece by piece.
  int64_t scratch_bytes = int64_t{32} << 20;
  // Up to this many bytes, an all-reduce brings everything to every rank; beyond, each rank adds a
  // part of it.
  int64_t small_bytes = int64_t{256} << 10;
  // Up to this many bytes, ranks of one node whose GPUs reach each other's memory add up by
  // themselves, in one kernel; 0: never. Each sends all it has to all, so beyond it the bytes cost
  // more than the rounds that they spare: to 7 peers 1.8 MB, 4 us at NVLink's 450 GB/s.
  int64_t peer_bytes = int64_t{256} << 10;
};

class NcclCommunicator final : public Communicator, private PeerWatch, private NcclMember {
 public:
  // Connects with all ranks of the group; blocks until they are there. The device must outlive the
  // communicator, the store the call. DEADLINE_EXCEEDED when a rank does not come,
  // FAILED_PRECONDITION when ranks have different versions of NCCL or different GPUs, UNAVAILABLE
  // when NCCL cannot connect.
  struct Member {
    int rank = 0;
    CudaDevice* device = nullptr;
    RendezvousStore* store = nullptr;
  };
  static absl::StatusOr<std::unique_ptr<Communicator>> Join(const NcclLibrary& library,
                                                            std::shared_ptr<NcclGroup> group,
                                                            const Member& member,
                                                            const NcclOptions& options);
  ~NcclCommunicator() override;

  int rank() const override { return rank_; }
  int size() const override { return group_->size(); }

  void AllReduce(TensorView data) override;
  using Communicator::AllGather;
  void AllGather(absl::Span<const AllGatherPart> parts) override;
  void Gather(ConstTensorView in, TensorView out, int root) override;
  void ReduceScatter(ConstTensorView in, TensorView out) override;
  void AllToAll(absl::Span<const AllToAllPart> parts) override;
  void AllToAllV(absl::Span<const AllToAllPart> parts, ConstTensorView send_counts,
                 TensorView recv_counts) override;
  absl::StatusOr<void*> ShareMemory(int64_t bytes) override;
  void Broadcast(TensorView data, int root) override;
  void Barrier() override;

  CollectiveTimes times() const override;
  void Abort(const absl::Status& reason) override;
  absl::Status Health() const override;

 private:
  // Each rank adds up a chunk of `count` elements; `stride` elements lie between the beginnings of
  // those of two ranks.
  struct Sum {
    const char* in = nullptr;  // rank 0's chunk
    char* out = nullptr;       // this rank's sums
    int64_t stride = 0;
    int64_t count = 0;
    DType dtype = DType::kF32;
  };
  // Rows of one array in an exchange.
  struct Chunks {
    const char* in = nullptr;
    char* out = nullptr;
    int64_t row_bytes = 0;
    int64_t capacity = 0;  // rows
  };

  NcclCommunicator(const NcclLibrary& library, std::shared_ptr<NcclGroup> group, int rank,
                   CudaDevice* device, const NcclOptions& options);
  absl::Status Connect(RendezvousStore* store);
  absl::StatusOr<ncclUniqueId> Meet(RendezvousStore* store);
  absl::StatusOr<ncclUniqueId> Invite(RendezvousStore* store, const std::string& self);
  absl::Status PrepareMemory();
  absl::Status ConnectPeers(RendezvousStore* store);

  struct Operation {
    std::optional<CollectiveOp> kind;  // none: a graph of some
    NcclGroup::Call call;
  };
  void Run(const Operation& operation, absl::FunctionRef<absl::Status()> enqueue);
  // Calls NCCL's functions as one group and waits until it has put them into the stream.
  absl::Status Issue(absl::FunctionRef<ncclResult_t(ncclComm_t)> calls);
  absl::Status AwaitIssued(absl::Duration limit);
  absl::Status NcclStatus(ncclResult_t result, ncclComm_t comm) const;

  absl::Status CheckConnected() const;  // not OK: given up
  absl::Status SumByPeers(char* data, int64_t count, DType dtype);
  absl::Status SumSmall(char* data, int64_t count, DType dtype);
  absl::Status SumScattered(const Sum& sum);
  absl::Status SumPiece(const Sum& piece);
  absl::Status SumAll(char* data, int64_t count, DType dtype);
  absl::Status GatherTo(const char* in, char* out, int64_t bytes, int root);
  // Null counts: whole chunks.
  absl::Status Exchange(absl::Span<const Chunks> parts, const int32_t* send_rows,
                        const int32_t* recv_rows);
  absl::Status ExchangeCounted(absl::Span<const Chunks> parts, const int32_t* send_counts,
                               int32_t* recv_counts);
  // The exchange over the peers' memory, if all that it brings lies there. Null: no counts.
  std::optional<PeerExchangeLaunch> PeerExchangeOf(absl::Span<const Chunks> parts,
                                                   const int32_t* recv_counts) const;
  absl::Status ExchangeByPeers(const PeerExchangeLaunch& launch);
  // Tells all ranks `bytes` bytes and brings theirs; waits.
  absl::Status TellAll(const void* own, void* all, int64_t bytes);
  absl::Status CheckCounts(absl::Span<const Chunks> parts) const;
  absl::Status CopyHere(void* to, const void* from, int64_t bytes);
  absl::Status AwaitCounts();
  std::vector<Chunks> CheckedChunks(absl::Span<const AllToAllPart> parts) const;
  absl::Status CudaStatus(cudaError_t error, std::string_view action) const;

  absl::Status Check(bool done) override;
  void RunGraph(absl::FunctionRef<void()> enqueue) override;
  void GiveUp(const absl::Status& reason) override;
  absl::Status FailGroup(const absl::Status& reason);
  // Whether all that NCCL was called for is in the stream.
  absl::StatusOr<bool> IsIssued();
  absl::Status CheckProgress();
  void Disconnect();

  const NcclLibrary library_;
  const std::shared_ptr<NcclGroup> group_;
  const int rank_;
  CudaDevice* const device_;
  const NcclOptions options_;
  DeviceBuffer scratch_;
  DeviceBuffer barrier_;            // a word of each rank
  int32_t* host_counts_ = nullptr;  // pinned: sent, then received
  cudaEvent_t counts_event_ = nullptr;
  uint64_t calls_ = 0;  // of this rank
  mutable StreamTimes times_;
  std::unique_ptr<PeerMemory> peers_;  // null: ranks do not all reach each other

  mutable absl::Mutex mutex_;  // around every call of NCCL; before none of the group's
  ncclComm_t comm_ ABSL_GUARDED_BY(mutex_) = nullptr;
  absl::Status given_up_ ABSL_GUARDED_BY(mutex_);  // why comm_ is null
};

}  // namespace tessera::cuda

#endif  // TESSERA_PARALLEL_NCCL_NCCL_COMMUNICATOR_H_
