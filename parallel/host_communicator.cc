#include "parallel/host_communicator.h"

#include <chrono>
#include <utility>
#include <vector>

#include "kernels/core/dtype.h"
#include "kernels/core/status_macros.h"

namespace tessera {
namespace {

bool Summable(DType dtype) { return dtype == DType::kF32 || dtype == DType::kBF16; }

// Parts with device addresses; the closures of the queue resolve them.
std::vector<HostPart> CheckedParts(absl::Span<const AllToAllPart> parts, int size) {
  std::vector<HostPart> checked;
  checked.reserve(parts.size());
  for (const AllToAllPart& part : parts) {
    TESSERA_CHECK(part.in.contiguous() && part.out.contiguous());
    TESSERA_CHECK(part.in.dim(0) == part.out.dim(0) && part.in.dim(0) % size == 0);
    const auto row_bytes = part.in.row_size() * static_cast<int64_t>(SizeOf(part.in.dtype()));
    TESSERA_CHECK(row_bytes ==
                  part.out.row_size() * static_cast<int64_t>(SizeOf(part.out.dtype())));
    HostPart host{.in = part.in.as<char>(),
                  .out = part.out.as<char>(),
                  .row_bytes = row_bytes,
                  .capacity = part.in.dim(0) / size};
    host.in_stride = host.chunk_bytes();
    checked.push_back(host);
  }
  return checked;
}

std::vector<HostPart> CheckedParts(absl::Span<const AllGatherPart> parts, int size) {
  std::vector<HostPart> checked;
  checked.reserve(parts.size());
  for (const AllGatherPart& part : parts) {
    TESSERA_CHECK(part.in.contiguous() && part.out.contiguous());
    TESSERA_CHECK(part.in.num_bytes() * size == part.out.num_bytes());
    checked.push_back({.in = part.in.as<char>(),
                       .out = part.out.as<char>(),
                       .row_bytes = part.in.num_bytes(),
                       .capacity = 1});
  }
  return checked;
}

void Resolve(HostQueue* queue, std::vector<HostPart>& parts) {
  for (HostPart& part : parts) {
    part.in = static_cast<const char*>(queue->Access(static_cast<const void*>(part.in)));
    part.out = static_cast<char*>(queue->Access(static_cast<void*>(part.out)));
  }
}

}  // namespace

void HostCommunicator::Enqueue(CollectiveOp op, std::function<absl::Status()> work) {
  queue_->Run([this, op, work = std::move(work)] {
    const auto start = std::chrono::steady_clock::now();
    absl::Status status = work();
    const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start;
    std::atomic<double>& time = times_[static_cast<size_t>(op)];
    time.store(time.load(std::memory_order_relaxed) + elapsed.count(), std::memory_order_relaxed);
    return status;
  });
}

CollectiveTimes HostCommunicator::times() const {
  CollectiveTimes times;
  for (size_t op = 0; op < times.size(); ++op) {
    times[op] = times_[op].load(std::memory_order_relaxed);
  }
  return times;
}

void HostCommunicator::AllReduce(TensorView data) {
  TESSERA_CHECK(data.contiguous() && Summable(data.dtype()));
  Enqueue(CollectiveOp::kAllReduce, [this, data] {
    return ReduceHost(Host(data.data()), data.num_elements(), data.dtype());
  });
}

void HostCommunicator::AllGather(absl::Span<const AllGatherPart> parts) {
  Enqueue(CollectiveOp::kAllGather, [this, checked = CheckedParts(parts, size_)]() mutable {
    Resolve(queue_, checked);
    return ExchangeHost("AllGather", checked);
  });
}

void HostCommunicator::Gather(ConstTensorView in, TensorView out, int root) {
  const bool receives = rank_ == root;
  TESSERA_CHECK(in.contiguous() && root >= 0 && root < size_);
  TESSERA_CHECK(!receives || (out.contiguous() && in.num_bytes() * size_ == out.num_bytes()));
  Enqueue(CollectiveOp::kAllGather, [this, in, out, root, receives] {
    return GatherHost({.in = Host(in.data()),
                       .out = receives ? Host(out.data()) : nullptr,
                       .bytes = in.num_bytes(),
                       .root = root});
  });
}

void HostCommunicator::ReduceScatter(ConstTensorView in, TensorView out) {
  TESSERA_CHECK(in.contiguous() && out.contiguous() && Summable(in.dtype()));
  TESSERA_CHECK(in.dtype() == out.dtype() && in.num_elements() == out.num_elements() * size_);
  Enqueue(CollectiveOp::kReduceScatter, [this, in, out] {
    return ReduceScatterHost(Host(in.data()), Host(out.data()), out.num_elements(), in.dtype());
  });
}

void HostCommunicator::AllToAll(absl::Span<const AllToAllPart> parts) {
  Enqueue(CollectiveOp::kAllToAll, [this, checked = CheckedParts(parts, size_)]() mutable {
    Resolve(queue_, checked);
    return ExchangeHost("AllToAll", checked);
  });
}

void HostCommunicator::AllToAllV(absl::Span<const AllToAllPart> parts, ConstTensorView send_counts,
                                 TensorView recv_counts) {
  TESSERA_CHECK(send_counts.dtype() == DType::kI32 && send_counts.num_elements() == size_);
  TESSERA_CHECK(recv_counts.dtype() == DType::kI32 && recv_counts.num_elements() == size_);
  Enqueue(CollectiveOp::kAllToAll,
          [this, checked = CheckedParts(parts, size_), send_counts, recv_counts]() mutable {
            Resolve(queue_, checked);
            return ExchangeRowsHost(checked,
                                    static_cast<const int32_t*>(queue_->Access(send_counts.data())),
                                    static_cast<int32_t*>(queue_->Access(recv_counts.data())));
          });
}

void HostCommunicator::Broadcast(TensorView data, int root) {
  TESSERA_CHECK(data.contiguous() && root >= 0 && root < size_);
  Enqueue(CollectiveOp::kBroadcast,
          [this, data, root] { return BroadcastHost(Host(data.data()), data.num_bytes(), root); });
}

void HostCommunicator::Barrier() {
  Enqueue(CollectiveOp::kBarrier, [this] { return BarrierHost(); });
}

}  // namespace tessera
