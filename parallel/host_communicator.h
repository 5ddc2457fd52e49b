// What transports of CPU devices share: checking shapes, enqueueing with HostQueue::Run and turning
// device addresses into host pointers. A transport only moves host bytes.
#ifndef TESSERA_PARALLEL_HOST_COMMUNICATOR_H_
#define TESSERA_PARALLEL_HOST_COMMUNICATOR_H_

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <string_view>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "kernels/core/device.h"
#include "kernels/core/host_queue.h"
#include "kernels/core/status_macros.h"
#include "kernels/core/tensor.h"
#include "parallel/communicator.h"

namespace tessera {

// What goes to rank r begins at byte r * in_stride of `in`; what comes from it at byte
// r * chunk_bytes() of `out`.
struct HostPart {
  const char* in = nullptr;
  char* out = nullptr;
  int64_t row_bytes = 0;
  int64_t capacity = 0;   // rows of a chunk
  int64_t in_stride = 0;  // chunk_bytes(), or 0: the same for all ranks
  int64_t chunk_bytes() const { return row_bytes * capacity; }
  const char* chunk_for(int rank) const { return in + rank * in_stride; }
  char* chunk_from(int rank) const { return out + rank * chunk_bytes(); }
};

// An empty tensor may have no address, which memcpy does not allow; one in place stays there.
inline void CopyBytes(const char* from, int64_t bytes, char* to) {
  if (bytes > 0 && from != to) std::memcpy(to, from, bytes);
}

class HostCommunicator : public Communicator {
 public:
  // `device` has a host queue and outlives the communicator.
  HostCommunicator(Device* device, int rank, int size)
      : queue_(device->host_queue()), rank_(rank), size_(size) {
    TESSERA_CHECK(queue_ != nullptr);
  }

  int rank() const override { return rank_; }
  int size() const override { return size_; }

  void AllReduce(TensorView data) override;
  using Communicator::AllGather;
  void AllGather(absl::Span<const AllGatherPart> parts) override;
  void Gather(ConstTensorView in, TensorView out, int root) override;
  void ReduceScatter(ConstTensorView in, TensorView out) override;
  void AllToAll(absl::Span<const AllToAllPart> parts) override;
  void AllToAllV(absl::Span<const AllToAllPart> parts, ConstTensorView send_counts,
                 TensorView recv_counts) override;
  void Broadcast(TensorView data, int root) override;
  void Barrier() override;
  CollectiveTimes times() const override;

 protected:
  // The operations on host memory, called where the device executes its queue. They block until
  // this rank's part is done and its memory is no longer used by peers.
  virtual absl::Status ReduceHost(char* data, int64_t count, DType dtype) = 0;
  // `out` is null on all ranks but `root`.
  struct GatherCall {
    const char* in;
    char* out;
    int64_t bytes;  // of one rank
    int root;
  };
  virtual absl::Status GatherHost(const GatherCall& call) = 0;
  // `count` elements come out.
  virtual absl::Status ReduceScatterHost(const char* in, char* out, int64_t count, DType dtype) = 0;
  // AllToAll and AllGather: `operation` says which. A part's own chunk may be in place already.
  virtual absl::Status ExchangeHost(std::string_view operation,
                                    absl::Span<const HostPart> parts) = 0;
  virtual absl::Status ExchangeRowsHost(absl::Span<const HostPart> parts,
                                        const int32_t* send_counts, int32_t* recv_counts) = 0;
  virtual absl::Status BroadcastHost(char* data, int64_t bytes, int root) = 0;
  virtual absl::Status BarrierHost() = 0;

 private:
  void Enqueue(CollectiveOp op, std::function<absl::Status()> work);
  char* Host(void* device) const { return static_cast<char*>(queue_->Access(device)); }
  const char* Host(const void* device) const {
    return static_cast<const char*>(queue_->Access(device));
  }

  HostQueue* const queue_;
  int rank_;
  int size_;
  // Written where the device executes its queue, read anywhere.
  std::array<std::atomic<double>, kNumCollectiveOps> times_{};
};

}  // namespace tessera

#endif  // TESSERA_PARALLEL_HOST_COMMUNICATOR_H_
