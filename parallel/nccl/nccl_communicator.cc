#include "parallel/nccl/nccl_communicator.h"

#include <algorithm>
#include <numeric>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/core/status_macros.h"
#include "kernels/cuda/cuda_error.h"
#include "kernels/cuda/kernels/rank_sum.h"

namespace tessera::cuda {
namespace {

bool Failed(ncclResult_t result) { return result != ncclSuccess && result != ncclInProgress; }

bool Summable(DType dtype) { return dtype == DType::kF32 || dtype == DType::kBF16; }

int64_t ElementBytes(DType dtype) { return static_cast<int64_t>(SizeOf(dtype)); }

Element ElementOf(DType dtype) { return dtype == DType::kF32 ? Element::kF32 : Element::kBf16; }

// Chunks of sums begin at multiples of 16 bytes of either type.
constexpr int64_t kChunkElements = 8;

}  // namespace

void NcclCommunicator::Run(const Operation& operation, absl::FunctionRef<absl::Status()> enqueue) {
  absl::Status status;
  bool left_alone = false;
  // What is captured runs, and is timed and watched, as a part of the graph.
  const bool captured = device_->capturing();
  if (captured) device_->AddToCapture(this);
  device_->Launch(operation.call.operation.data(), [&] {
    const uint64_t number = calls_++;
    status = group_->Enter(rank_, operation.call);
    if (status.ok()) {
      status = group_->CheckPresent(number);
      left_alone = !status.ok();
    }
    if (status.ok() && captured) status = enqueue();
    if (!status.ok() || captured) return cudaSuccess;
    const cudaError_t error =
        times_.Begin({.kind = operation.kind, .name = operation.call.operation, .number = number},
                     device_->stream());
    if (error != cudaSuccess) return error;
    status = enqueue();
    return status.ok() ? times_.End(device_->stream()) : cudaSuccess;
  });
  if (status.ok()) return;
  if (left_alone) {
    // Peers that have all they wait for need not fail.
    GiveUp(status);
  } else {
    status = FailGroup(status);
  }
  device_->Fail(status);
}

void NcclCommunicator::RunGraph(absl::FunctionRef<void()> enqueue) {
  Run({.call = {.operation = "a step's graph"}}, [&] {
    enqueue();
    return absl::OkStatus();
  });
}

absl::Status NcclCommunicator::Issue(absl::FunctionRef<ncclResult_t(ncclComm_t)> calls) {
  {
    absl::MutexLock lock(&mutex_);
    if (comm_ == nullptr) return given_up_;
    ncclResult_t result = library_.group_start();
    if (!Failed(result)) {
      const ncclResult_t called = calls(comm_);
      result = library_.group_end();
      if (Failed(called)) result = called;
    }
    if (Failed(result)) return NcclStatus(result, comm_);
  }
  return AwaitIssued(options_.timeout);
}

absl::Status NcclCommunicator::CopyHere(void* to, const void* from, int64_t bytes) {
  if (bytes == 0 || to == from) return absl::OkStatus();
  return CudaStatus(cudaMemcpyAsync(to, from, static_cast<size_t>(bytes), cudaMemcpyDeviceToDevice,
                                    device_->stream()),
                    "a copy");
}

absl::Status NcclCommunicator::SumSmall(char* data, int64_t count, DType dtype) {
  const auto bytes = static_cast<size_t>(count * ElementBytes(dtype));
  RETURN_IF_ERROR(Issue([&](ncclComm_t comm) {
    return library_.all_gather(data, scratch_.data(), bytes, ncclInt8, comm, device_->stream());
  }));
  return CudaStatus(
      LaunchRankSum(
          device_->stream(),
          {.parts = {.data = scratch_.data(), .stride = count, .element = ElementOf(dtype)},
           .ranks = size(),
           .out = data,
           .count = count}),
      "adding ranks");
}

absl::Status NcclCommunicator::SumPiece(const Sum& piece) {
  const int64_t element = ElementBytes(piece.dtype);
  const auto bytes = static_cast<size_t>(piece.count * element);
  const auto chunk_for = [&](int r) { return piece.in + r * piece.stride * element; };
  char* const parts = static_cast<char*>(scratch_.data());
  if (size() > 1) {
    RETURN_IF_ERROR(Issue([&](ncclComm_t comm) {
      for (int r = 0; r < size(); ++r) {
        if (r == rank_) continue;
        ncclResult_t result =
            library_.send(chunk_for(r), bytes, ncclInt8, r, comm, device_->stream());
        if (Failed(result)) return result;
        result = library_.recv(parts + static_cast<size_t>(r) * bytes, bytes, ncclInt8, r, comm,
                               device_->stream());
        if (Failed(result)) return result;
      }
      return ncclSuccess;
    }));
  }
  return CudaStatus(
      LaunchRankSum(
          device_->stream(),
          {.parts = {.data = parts, .stride = piece.count, .element = ElementOf(piece.dtype)},
           .own = chunk_for(rank_),
           .own_rank = rank_,
           .ranks = size(),
           .out = piece.out,
           .count = piece.count}),
      "adding ranks");
}

absl::Status NcclCommunicator::SumScattered(const Sum& sum) {
  const int64_t element = ElementBytes(sum.dtype);
  const int64_t most = options_.scratch_bytes / element / size() / kChunkElements * kChunkElements;
  for (int64_t begin = 0; begin < sum.count; begin += most) {
    Sum piece = sum;
    piece.in += begin * element;
    piece.out += begin * element;
    piece.count = std::min(most, sum.count - begin);
    RETURN_IF_ERROR(SumPiece(piece));
  }
  return absl::OkStatus();
}

absl::Status NcclCommunicator::SumAll(char* data, int64_t count, DType dtype) {
  const int64_t element = ElementBytes(dtype);
  if (peers_ != nullptr && count * element <= options_.peer_bytes) {
    return SumByPeers(data, count, dtype);
  }
  const int64_t small = std::min(options_.small_bytes, options_.scratch_bytes / size()) / element;
  while (count > 0) {
    const int64_t chunk = std::min(count, options_.scratch_bytes / element) / size() /
                          kChunkElements * kChunkElements;
    if (count <= small || chunk == 0) {
      const int64_t piece = std::min(count, small);
      RETURN_IF_ERROR(SumSmall(data, piece, dtype));
      data += piece * element;
      count -= piece;
      continue;
    }
    char* const own = data + rank_ * chunk * element;
    RETURN_IF_ERROR(
        SumPiece({.in = data, .out = own, .stride = chunk, .count = chunk, .dtype = dtype}));
    RETURN_IF_ERROR(Issue([&](ncclComm_t comm) {
      return library_.all_gather(own, data, static_cast<size_t>(chunk * element), ncclInt8, comm,
                                 device_->stream());
    }));
    data += size() * chunk * element;
    count -= size() * chunk;
  }
  return absl::OkStatus();
}

void NcclCommunicator::AllReduce(TensorView data) {
  TESSERA_CHECK(data.contiguous() && Summable(data.dtype()));
  const NcclGroup::Call call{.operation = "AllReduce", .bytes = data.num_bytes()};
  Run({.kind = CollectiveOp::kAllReduce, .call = call}, [&] {
    if (size() == 1) return absl::OkStatus();
    return SumAll(data.as<char>(), data.num_elements(), data.dtype());
  });
}

void NcclCommunicator::ReduceScatter(ConstTensorView in, TensorView out) {
  TESSERA_CHECK(in.contiguous() && out.contiguous() && Summable(in.dtype()));
  TESSERA_CHECK(in.dtype() == out.dtype() && in.num_elements() == out.num_elements() * size());
  const NcclGroup::Call call{.operation = "ReduceScatter", .bytes = out.num_bytes()};
  Run({.kind = CollectiveOp::kReduceScatter, .call = call}, [&] {
    return SumScattered({.in = in.as<char>(),
                         .out = out.as<char>(),
                         .stride = out.num_elements(),
                         .count = out.num_elements(),
                         .dtype = in.dtype()});
  });
}

void NcclCommunicator::AllGather(absl::Span<const AllGatherPart> parts) {
  int64_t bytes = 0;
  for (const AllGatherPart& part : parts) {
    TESSERA_CHECK(part.in.contiguous() && part.out.contiguous());
    TESSERA_CHECK(part.in.num_bytes() * size() == part.out.num_bytes());
    bytes += part.in.num_bytes();
  }
  Run({.kind = CollectiveOp::kAllGather, .call = {.operation = "AllGather", .bytes = bytes}}, [&] {
    if (bytes == 0) return absl::OkStatus();
    return Issue([&](ncclComm_t comm) {
      for (const AllGatherPart& part : parts) {
        if (part.in.num_bytes() == 0) continue;
        const ncclResult_t result = library_.all_gather(part.in.data(), part.out.data(),
                                                        static_cast<size_t>(part.in.num_bytes()),
                                                        ncclInt8, comm, device_->stream());
        if (Failed(result)) return result;
      }
      return ncclSuccess;
    });
  });
}

absl::Status NcclCommunicator::GatherTo(const char* in, char* out, int64_t bytes, int root) {
  if (bytes == 0) return absl::OkStatus();
  if (size() > 1) {
    RETURN_IF_ERROR(Issue([&](ncclComm_t comm) {
      const auto count = static_cast<size_t>(bytes);
      if (rank_ != root) {
        return library_.send(in, count, ncclInt8, root, comm, device_->stream());
      }
      for (int r = 0; r < size(); ++r) {
        if (r == root) continue;
        const ncclResult_t result =
            library_.recv(out + r * bytes, count, ncclInt8, r, comm, device_->stream());
        if (Failed(result)) return result;
      }
      return ncclSuccess;
    }));
  }
  return rank_ == root ? CopyHere(out + root * bytes, in, bytes) : absl::OkStatus();
}

void NcclCommunicator::Gather(ConstTensorView in, TensorView out, int root) {
  TESSERA_CHECK(in.contiguous() && root >= 0 && root < size());
  TESSERA_CHECK(rank_ != root || (out.contiguous() && in.num_bytes() * size() == out.num_bytes()));
  const NcclGroup::Call call{.operation = "Gather", .bytes = in.num_bytes()};
  Run({.kind = CollectiveOp::kAllGather, .call = call}, [&] {
    return GatherTo(in.as<char>(), rank_ == root ? out.as<char>() : nullptr, in.num_bytes(), root);
  });
}

std::vector<NcclCommunicator::Chunks> NcclCommunicator::CheckedChunks(
    absl::Span<const AllToAllPart> parts) const {
  std::vector<Chunks> checked;
  checked.reserve(parts.size());
  for (const AllToAllPart& part : parts) {
    TESSERA_CHECK(part.in.contiguous() && part.out.contiguous());
    TESSERA_CHECK(part.in.dim(0) == part.out.dim(0) && part.in.dim(0) % size() == 0);
    const int64_t row_bytes = part.in.row_size() * ElementBytes(part.in.dtype());
    TESSERA_CHECK(row_bytes == part.out.row_size() * ElementBytes(part.out.dtype()));
    checked.push_back({.in = part.in.as<char>(),
                       .out = part.out.as<char>(),
                       .row_bytes = row_bytes,
                       .capacity = part.in.dim(0) / size()});
  }
  return checked;
}

absl::Status NcclCommunicator::Exchange(absl::Span<const Chunks> parts, const int32_t* send_rows,
                                        const int32_t* recv_rows) {
  const auto bytes_of = [](const Chunks& part, const int32_t* rows, int peer) {
    return (rows == nullptr ? part.capacity : rows[peer]) * part.row_bytes;
  };
  const auto place = [](const Chunks& part, int peer) {
    return peer * part.capacity * part.row_bytes;
  };
  if (size() > 1) {
    RETURN_IF_ERROR(Issue([&](ncclComm_t comm) {
      for (int r = 0; r < size(); ++r) {
        if (r == rank_) continue;
        for (const Chunks& part : parts) {
          const auto sent = static_cast<size_t>(bytes_of(part, send_rows, r));
          const auto received = static_cast<size_t>(bytes_of(part, recv_rows, r));
          ncclResult_t result = ncclSuccess;
          if (sent > 0) {
            result =
                library_.send(part.in + place(part, r), sent, ncclInt8, r, comm, device_->stream());
          }
          if (received > 0 && !Failed(result)) {
            result = library_.recv(part.out + place(part, r), received, ncclInt8, r, comm,
                                   device_->stream());
          }
          if (Failed(result)) return result;
        }
      }
      return ncclSuccess;
    }));
  }
  for (const Chunks& part : parts) {
    RETURN_IF_ERROR(CopyHere(part.out + place(part, rank_), part.in + place(part, rank_),
                             bytes_of(part, send_rows, rank_)));
  }
  return absl::OkStatus();
}

void NcclCommunicator::AllToAll(absl::Span<const AllToAllPart> parts) {
  const std::vector<Chunks> chunks = CheckedChunks(parts);
  int64_t bytes = 0;
  for (const Chunks& part : chunks) bytes += part.capacity * part.row_bytes;
  Run({.kind = CollectiveOp::kAllToAll, .call = {.operation = "AllToAll", .bytes = bytes}}, [&] {
    if (bytes == 0) return absl::OkStatus();
    const std::optional<PeerExchangeLaunch> by_peers = PeerExchangeOf(chunks, nullptr);
    return by_peers ? ExchangeByPeers(*by_peers) : Exchange(chunks, nullptr, nullptr);
  });
}

absl::Status NcclCommunicator::CheckCounts(absl::Span<const Chunks> parts) const {
  for (const Chunks& part : parts) {
    for (int i = 0; i < 2 * size(); ++i) {
      if (host_counts_[i] >= 0 && host_counts_[i] <= part.capacity) continue;
      const int sender = i < size() ? rank_ : i - size();
      return absl::InternalError(absl::StrCat("rank ", sender, " offers ", host_counts_[i],
                                              " rows that do not fit a chunk of ", part.capacity,
                                              " rows"));
    }
  }
  return absl::OkStatus();
}

absl::Status NcclCommunicator::ExchangeCounted(absl::Span<const Chunks> parts,
                                               const int32_t* send_counts, int32_t* recv_counts) {
  const Chunks counts{.in = reinterpret_cast<const char*>(send_counts),
                      .out = reinterpret_cast<char*>(recv_counts),
                      .row_bytes = sizeof(int32_t),
                      .capacity = 1};
  RETURN_IF_ERROR(Exchange({&counts, 1}, nullptr, nullptr));
  const size_t bytes = static_cast<size_t>(size()) * sizeof(int32_t);
  const cudaStream_t stream = device_->stream();
  RETURN_IF_ERROR(
      CudaStatus(cudaMemcpyAsync(host_counts_, send_counts, bytes, cudaMemcpyDeviceToHost, stream),
                 "reading counts"));
  RETURN_IF_ERROR(CudaStatus(
      cudaMemcpyAsync(host_counts_ + size(), recv_counts, bytes, cudaMemcpyDeviceToHost, stream),
      "reading counts"));
  RETURN_IF_ERROR(CudaStatus(cudaEventRecord(counts_event_, stream), "reading counts"));
  RETURN_IF_ERROR(AwaitCounts());
  RETURN_IF_ERROR(CheckCounts(parts));
  return Exchange(parts, host_counts_, host_counts_ + size());
}

void NcclCommunicator::AllToAllV(absl::Span<const AllToAllPart> parts, ConstTensorView send_counts,
                                 TensorView recv_counts) {
  TESSERA_CHECK(send_counts.dtype() == DType::kI32 && send_counts.num_elements() == size());
  TESSERA_CHECK(recv_counts.dtype() == DType::kI32 && recv_counts.num_elements() == size());
  const std::vector<Chunks> chunks = CheckedChunks(parts);
  int64_t bytes = 0;
  for (const Chunks& part : chunks) bytes += part.capacity * part.row_bytes;
  Run({.kind = CollectiveOp::kAllToAll, .call = {.operation = "AllToAllV", .bytes = bytes}}, [&] {
    std::optional<PeerExchangeLaunch> by_peers = PeerExchangeOf(chunks, recv_counts.as<int32_t>());
    if (by_peers) {
      by_peers->send_counts = send_counts.as<int32_t>();
      return ExchangeByPeers(*by_peers);
    }
    return ExchangeCounted(chunks, send_counts.as<int32_t>(), recv_counts.as<int32_t>());
  });
}

void NcclCommunicator::Broadcast(TensorView data, int root) {
  TESSERA_CHECK(data.contiguous() && root >= 0 && root < size());
  const NcclGroup::Call call{.operation = "Broadcast", .bytes = data.num_bytes()};
  Run({.kind = CollectiveOp::kBroadcast, .call = call}, [&] {
    if (call.bytes == 0) return absl::OkStatus();
    return Issue([&](ncclComm_t comm) {
      return library_.broadcast(data.data(), data.data(), static_cast<size_t>(call.bytes), ncclInt8,
                                root, comm, device_->stream());
    });
  });
}

void NcclCommunicator::Barrier() {
  Run({.kind = CollectiveOp::kBarrier, .call = {.operation = "Barrier"}}, [&] {
    return Issue([&](ncclComm_t comm) {
      auto* const words = static_cast<int32_t*>(barrier_.data());
      return library_.all_gather(words + rank_, words, sizeof(int32_t), ncclInt8, comm,
                                 device_->stream());
    });
  });
}

CollectiveTimes NcclCommunicator::times() const { return times_.Sum(); }

}  // namespace tessera::cuda
