#include "parallel/inproc/inproc_communicator.h"

#include <algorithm>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/container/inlined_vector.h"
#include "absl/strings/str_cat.h"
#include "kernels/core/control_group.h"
#include "kernels/core/status_macros.h"
#include "parallel/host_communicator.h"
#include "parallel/inproc/rank_barrier.h"
#include "parallel/rank_sum.h"

namespace tessera {
namespace {

// Ranks share the work of an operation in parts of at least about this many bytes: taking one costs
// some hundred nanoseconds.
constexpr int64_t kPartBytes = int64_t{8} << 10;
// Where a part takes longer than waking a thread that sleeps.
constexpr int64_t kPartBytesWorthWaking = int64_t{1} << 20;

// Slices of an all-reduce begin at cache lines of any element type.
constexpr int64_t kSliceElements = 64;

}  // namespace

class InprocGroup {
 public:
  // What a rank shows its peers during one operation.
  struct Slot {
    std::string_view operation;
    int64_t bytes = 0;  // equal on all ranks
    const char* in = nullptr;
    char* out = nullptr;
    absl::Span<const HostPart> parts;
    const int32_t* send_counts = nullptr;
    int32_t* recv_counts = nullptr;
  };
  struct alignas(64) Rank {
    Slot slot;
  };

  InprocGroup(int size, const InprocOptions& options)
      : ranks(size),
        barrier(size, {.timeout = options.timeout,
                       .spin = options.bell == nullptr &&
                               size <= (options.cores > 0 ? options.cores : UsableCpus()),
                       .bell = options.bell}) {}

  int size() const { return static_cast<int>(ranks.size()); }

  std::vector<Rank> ranks;
  RankBarrier barrier;
};

namespace {

class InprocCommunicator : public HostCommunicator {
 public:
  using Slot = InprocGroup::Slot;

  InprocCommunicator(std::shared_ptr<InprocGroup> group, int rank, Device* device, Seat* seat)
      : HostCommunicator(device, rank, group->size()), group_(std::move(group)) {
    group_->barrier.Sit(rank, seat);
  }

  ~InprocCommunicator() override {
    group_->barrier.Fail(absl::UnavailableError(absl::StrCat("rank ", rank(), " left the group")));
  }

  void Abort(const absl::Status& reason) override { group_->barrier.Fail(reason); }
  absl::Status Health() const override { return group_->barrier.status(); }

 protected:
  absl::Status ReduceHost(char* data, int64_t count, DType dtype) override;
  absl::Status GatherHost(const GatherCall& call) override;
  absl::Status ReduceScatterHost(const char* in, char* out, int64_t count, DType dtype) override;
  absl::Status ExchangeHost(std::string_view operation, absl::Span<const HostPart> parts) override;
  absl::Status ExchangeRowsHost(absl::Span<const HostPart> parts, const int32_t* send_counts,
                                int32_t* recv_counts) override;
  absl::Status BroadcastHost(char* data, int64_t bytes, int root) override;
  absl::Status BarrierHost() override;

 private:
  // Shows `slot` to the peers and, when all have come, runs deliver(r) for every rank r, of which
  // each moves about `bytes_each`: on this rank or on a peer, which calls the same with its own.
  template <typename Deliver>
  absl::Status Meet(const Slot& slot, int64_t bytes_each, Deliver deliver);
  absl::Status CheckPeers() const;

  const Slot& Peer(int r) const { return group_->ranks[r].slot; }

  std::shared_ptr<InprocGroup> group_;
};

template <typename Deliver>
absl::Status InprocCommunicator::Meet(const Slot& slot, int64_t bytes_each, Deliver deliver) {
  group_->ranks[rank()].slot = slot;
  const int most = std::min(size(), MeetingWork::kMaxParts);
  const int64_t bytes = bytes_each * size();
  const auto parts = static_cast<int>(std::clamp<int64_t>(bytes / kPartBytes, 1, most));
  const auto run = [&](int part) {
    for (int r = part * size() / parts; r < (part + 1) * size() / parts; ++r) {
      RETURN_IF_ERROR(deliver(r));
    }
    return absl::OkStatus();
  };
  return group_->barrier.Arrive(
      rank(), slot.operation, [this] { return CheckPeers(); },
      {.parts = parts, .run = run, .long_enough_to_wake = bytes / parts >= kPartBytesWorthWaking});
}

absl::Status InprocCommunicator::CheckPeers() const {
  const Slot& first = Peer(0);
  for (int r = 1; r < size(); ++r) {
    const Slot& other = Peer(r);
    if (other.operation == first.operation && other.bytes == first.bytes) continue;
    return absl::InternalError(absl::StrCat(
        "rank 0 called ", absl::string_view(first.operation.data(), first.operation.size()), " of ",
        first.bytes, " bytes but rank ", r, " called ",
        absl::string_view(other.operation.data(), other.operation.size()), " of ", other.bytes));
  }
  return absl::OkStatus();
}

absl::Status InprocCommunicator::BarrierHost() {
  return Meet({.operation = "Barrier"}, 0, [](int) { return absl::OkStatus(); });
}

absl::Status InprocCommunicator::ReduceHost(char* data, int64_t count, DType dtype) {
  const int64_t bytes = count * static_cast<int64_t>(SizeOf(dtype));
  const int64_t even = (count + size() - 1) / size();
  const int64_t width = (even + kSliceElements - 1) / kSliceElements * kSliceElements;
  return Meet({.operation = "AllReduce", .bytes = bytes, .out = data}, bytes, [&](int r) {
    absl::InlinedVector<char*, 16> all(size());
    for (int peer = 0; peer < size(); ++peer) all[peer] = Peer(peer).out;
    const int64_t begin = std::min(count, r * width);
    SumRanks({.inputs = {all.data(), all.size()},
              .outputs = absl::MakeSpan(all),
              .begin = begin,
              .count = std::min(width, count - begin),
              .dtype = dtype});
    return absl::OkStatus();
  });
}

absl::Status InprocCommunicator::GatherHost(const GatherCall& call) {
  const int64_t bytes = call.bytes;
  const Slot slot{.operation = "Gather", .bytes = bytes, .in = call.in, .out = call.out};
  return Meet(slot, bytes, [&](int r) {
    CopyBytes(Peer(r).in, bytes, Peer(call.root).out + r * bytes);
    return absl::OkStatus();
  });
}

absl::Status InprocCommunicator::ReduceScatterHost(const char* in, char* out, int64_t count,
                                                   DType dtype) {
  const int64_t bytes = count * static_cast<int64_t>(SizeOf(dtype));
  const Slot slot{.operation = "ReduceScatter", .bytes = bytes, .in = in, .out = out};
  return Meet(slot, bytes * size(), [&](int r) {
    absl::InlinedVector<const char*, 16> inputs(size());
    for (int from = 0; from < size(); ++from) inputs[from] = Peer(from).in + r * bytes;
    char* sum = Peer(r).out;
    SumRanks({.inputs = inputs, .outputs = {&sum, 1}, .count = count, .dtype = dtype});
    return absl::OkStatus();
  });
}

int64_t TotalChunkBytes(absl::Span<const HostPart> parts) {
  int64_t total = 0;
  for (const HostPart& part : parts) total += part.chunk_bytes();
  return total;
}

// The rows that rank `from` has for rank `to` (whole chunks when they are not counted), after
// checking that they fit.
absl::Status CopyRows(const InprocGroup::Slot& source, int from, const InprocGroup::Slot& target,
                      int to) {
  for (size_t i = 0; i < target.parts.size(); ++i) {
    const HostPart& part = target.parts[i];
    const int64_t count = source.send_counts != nullptr ? source.send_counts[to] : part.capacity;
    if (i >= source.parts.size() || source.parts[i].row_bytes != part.row_bytes ||
        source.parts[i].capacity != part.capacity || count < 0 || count > part.capacity) {
      return absl::InternalError(absl::StrCat("rank ", from, " offers ", count,
                                              " rows that do not fit a chunk of ", part.capacity,
                                              " rows of ", part.row_bytes, " bytes on rank ", to));
    }
    CopyBytes(source.parts[i].chunk_for(to), count * part.row_bytes, part.chunk_from(from));
  }
  return absl::OkStatus();
}

absl::Status InprocCommunicator::ExchangeHost(std::string_view operation,
                                              absl::Span<const HostPart> parts) {
  const int64_t bytes = TotalChunkBytes(parts);
  const Slot slot{.operation = operation, .bytes = bytes, .parts = parts};
  return Meet(slot, bytes * size(), [&](int r) {
    for (int from = 0; from < size(); ++from) {
      RETURN_IF_ERROR(CopyRows(Peer(from), from, Peer(r), r));
    }
    return absl::OkStatus();
  });
}

absl::Status InprocCommunicator::ExchangeRowsHost(absl::Span<const HostPart> parts,
                                                  const int32_t* send_counts,
                                                  int32_t* recv_counts) {
  const int64_t bytes = TotalChunkBytes(parts);
  const Slot slot{.operation = "AllToAllV",
                  .bytes = bytes,
                  .parts = parts,
                  .send_counts = send_counts,
                  .recv_counts = recv_counts};
  return Meet(slot, bytes * size(), [&](int r) {
    for (int from = 0; from < size(); ++from) {
      Peer(r).recv_counts[from] = Peer(from).send_counts[r];
      RETURN_IF_ERROR(CopyRows(Peer(from), from, Peer(r), r));
    }
    return absl::OkStatus();
  });
}

absl::Status InprocCommunicator::BroadcastHost(char* data, int64_t bytes, int root) {
  return Meet({.operation = "Broadcast", .bytes = bytes, .out = data}, bytes, [&](int r) {
    if (r != root) CopyBytes(Peer(root).out, bytes, Peer(r).out);
    return absl::OkStatus();
  });
}

}  // namespace

std::shared_ptr<InprocGroup> CreateInprocGroup(int size, const InprocOptions& options) {
  TESSERA_CHECK(size >= 1);
  return std::make_shared<InprocGroup>(size, options);
}

std::unique_ptr<Communicator> JoinInprocGroup(std::shared_ptr<InprocGroup> group, int rank,
                                              Device* device, Seat* shared_seat) {
  TESSERA_CHECK(rank >= 0 && rank < group->size());
  return std::make_unique<InprocCommunicator>(std::move(group), rank, device, shared_seat);
}

}  // namespace tessera
