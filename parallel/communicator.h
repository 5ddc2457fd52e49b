// Collective operations of one group of ranks on device tensors.
//
// Every rank of the group calls the same operations in the same order with the same shapes. Calls
// only enqueue on the rank's device, in order with its other work; results are defined after
// Device::Synchronize() (or for work enqueued later on the same device).
//
// Sums are accumulated in fp32 in ascending rank order and rounded once, so every rank gets the
// same bits, on every transport, whenever its peers arrive.
//
// Failures are sticky: once an operation of the group failed, every later one fails with the same
// status, which surfaces at Device::Synchronize() of each rank: UNAVAILABLE when a rank is gone
// (the message names it), DEADLINE_EXCEEDED when a rank did not arrive in time, INTERNAL when
// ranks call different operations.
#ifndef TESSERA_PARALLEL_COMMUNICATOR_H_
#define TESSERA_PARALLEL_COMMUNICATOR_H_

#include <cstdint>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "kernels/core/tensor.h"
#include "parallel/collective_times.h"

namespace tessera {

// One array of an all-to-all. Rows may have any type and size; rows of `in` and `out` agree.
struct AllToAllPart {
  ConstTensorView in;  // [size * C, ...]: chunk d = rows [d * C, (d + 1) * C) goes to rank d
  TensorView out;      // [size * C, ...]: chunk s comes from rank s
};

// One array of an all-gather; any type and size.
struct AllGatherPart {
  ConstTensorView in;  // [n, ...]
  TensorView out;      // [size * n, ...]; `in` may be this rank's rows of it
};

// Used by the thread that drives the rank's device, except Abort and Health. Tensors are contiguous
// (violated shapes are CHECK failures) and must live until the operation has run. `in` and `out`
// must not overlap unless said otherwise. Destroyed after the work enqueued through it has run.
class Communicator {
 public:
  virtual ~Communicator() = default;
  Communicator() = default;
  Communicator(const Communicator&) = delete;
  Communicator& operator=(const Communicator&) = delete;

  virtual int rank() const = 0;
  virtual int size() const = 0;

  // data = sum over ranks. kF32 or kBF16, any shape.
  virtual void AllReduce(TensorView data) = 0;
  // out = the ranks' `in` one after the other, for every part, as one operation.
  virtual void AllGather(absl::Span<const AllGatherPart> parts) = 0;
  void AllGather(ConstTensorView in, TensorView out) {
    const AllGatherPart part{.in = in, .out = out};
    AllGather({&part, 1});
  }
  // The same for rank `root` only and one array; on the others `out` is not used and may be empty.
  virtual void Gather(ConstTensorView in, TensorView out, int root) = 0;
  // out = this rank's n rows of the sum over ranks. in [size * n, ...], out [n, ...], kF32 or
  // kBF16.
  virtual void ReduceScatter(ConstTensorView in, TensorView out) = 0;
  // Whole chunks of every part, exchanged as one operation.
  virtual void AllToAll(absl::Span<const AllToAllPart> parts) = 0;
  // The first send_counts[d] rows of chunk d of every part, exchanged as one operation; the other
  // rows are neither read nor written. Counts live on the device, so an earlier operation of the
  // queue may compute them; the transport exchanges them itself (one that needs them on the host
  // waits for the queue). INTERNAL when a count lies outside [0, C].
  virtual void AllToAllV(absl::Span<const AllToAllPart> parts,
                         ConstTensorView send_counts,  // [size] int
                         TensorView recv_counts) = 0;  // [size] int, written
  // Memory of this rank for what AllToAll and AllToAllV bring (every `out`, and the counts), at the
  // same offsets on all ranks: where devices reach each other's memory, rows then go straight there
  // and no count comes to a host, so that both can be captured. All ranks call it in the same order
  // with the same size, and wait for each other. Null on all ranks: any memory is as good. Cleared;
  // lives as long as the communicator.
  virtual absl::StatusOr<void*> ShareMemory(int64_t /*bytes*/) { return nullptr; }

  // data of rank `root` to all. Any type and shape.
  virtual void Broadcast(TensorView data, int root) = 0;
  // No rank's later work starts before every rank's earlier work is done.
  virtual void Barrier() = 0;

  // Time this rank's device has spent in the operations since the start, as far as they have ended.
  // Any thread.
  virtual CollectiveTimes times() const = 0;

  // Fails the group with `reason` (not OK; the first one wins) and wakes every waiting rank of this
  // process; ranks elsewhere find out through their transport. Any thread.
  virtual void Abort(const absl::Status& reason) = 0;
  // The sticky status. Any thread.
  virtual absl::Status Health() const = 0;
};

}  // namespace tessera

#endif  // TESSERA_PARALLEL_COMMUNICATOR_H_
