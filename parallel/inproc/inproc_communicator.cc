#include "parallel/inproc/inproc_communicator.h"

#include <sched.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstring>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/strings/str_cat.h"
#include "kernels/core/status_macros.h"
#include "parallel/host_communicator.h"
#include "parallel/inproc/rank_barrier.h"
#include "parallel/rank_sum.h"

namespace tessera {
namespace {

// Inputs up to this size are copied to memory of the group, which saves the second meeting.
constexpr int64_t kStagingBytes = int64_t{32} << 10;
// Beyond this total one rank's (or every rank's) adding everything costs more than a second
// meeting, after which each adds a part.
constexpr int64_t kOneMeetingTotal = int64_t{64} << 10;

// Slices of an all-reduce begin at cache lines of any element type.
constexpr int64_t kSliceElements = 64;

// An empty tensor may have no address, which memcpy does not allow.
void CopyBytes(const char* from, int64_t bytes, char* to) {
  if (bytes > 0) std::memcpy(to, from, bytes);
}

int AvailableCores() {
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof(set), &set) == 0) return CPU_COUNT(&set);
  return std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
}

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
    const int32_t* counts = nullptr;
  };
  // Consecutive operations use alternate slots: a rank that is one operation ahead does not
  // overwrite what a slower one still reads, and it cannot be two ahead.
  struct alignas(64) Rank {
    std::array<Slot, 2> slots;
    // Set while this rank may read or write memory of its peers.
    std::atomic<bool> copying{false};
    std::vector<char> staging = std::vector<char>(2 * kStagingBytes);
  };

  InprocGroup(int size, const InprocOptions& options)
      : ranks(size),
        barrier(size, {.timeout = options.timeout,
                       .spin = options.bell == nullptr &&
                               size <= (options.cores > 0 ? options.cores : AvailableCores()),
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
      : HostCommunicator(device, rank, group->size()), group_(std::move(group)), seat_(seat) {
    group_->barrier.Sit(rank, seat);
    for (const InprocGroup::Rank& other : group_->ranks) {
      staged_[0].push_back(other.staging.data());
      staged_[1].push_back(other.staging.data() + kStagingBytes);
    }
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
  absl::Status ExchangeHost(absl::Span<const HostPart> parts) override;
  absl::Status ExchangeRowsHost(absl::Span<const HostPart> parts, const int32_t* send_counts,
                                int32_t* recv_counts) override;
  absl::Status BroadcastHost(char* data, int64_t bytes, int root) override;
  absl::Status BarrierHost() override;

 private:
  // One meeting; afterwards Peer(r) shows every rank's slot of this operation. `before_release`
  // runs on the last rank to arrive, when all slots are there.
  absl::Status Meet(
      const Slot& slot, absl::FunctionRef<void()> before_release = [] {});
  absl::Status ReduceStaged(const Slot& slot, int64_t count, DType dtype);
  // One meeting at which the last rank to arrive works for all, on their own memory: for groups
  // whose other ranks could not use the time.
  template <typename Work>
  absl::Status MeetAndWork(const Slot& slot, Work work);
  // A meeting, `copy` while all ranks hold still, and a second meeting.
  template <typename Copy>
  absl::Status MeetAndCopy(const Slot& slot, Copy copy);
  absl::Status CheckPeers() const;
  // After a failure: until no rank touches foreign memory any more.
  void AwaitCopies() const;

  const Slot& Peer(int r) const { return group_->ranks[r].slots[parity_]; }
  char* Staging(int r) const {
    return group_->ranks[r].staging.data() + static_cast<int64_t>(parity_) * kStagingBytes;
  }

  std::shared_ptr<InprocGroup> group_;
  Seat* const seat_;                                // where this rank shares a thread, or null
  std::array<std::vector<const char*>, 2> staged_;  // every rank's staging, both halves
  int parity_ = 0;  // which slot and staging half the current operation uses
};

absl::Status InprocCommunicator::Meet(const Slot& slot, absl::FunctionRef<void()> before_release) {
  group_->ranks[rank()].slots[parity_] = slot;
  RETURN_IF_ERROR(group_->barrier.Arrive(rank(), slot.operation, before_release));
  absl::Status status = CheckPeers();
  if (!status.ok()) group_->barrier.Fail(status);
  return status;
}

template <typename Copy>
absl::Status InprocCommunicator::MeetAndCopy(const Slot& slot, Copy copy) {
  std::atomic<bool>& copying = group_->ranks[rank()].copying;
  copying.store(true, std::memory_order_release);
  absl::Status status = Meet(slot);
  if (status.ok()) status = copy();
  copying.store(false, std::memory_order_release);
  if (!status.ok()) {
    group_->barrier.Fail(status);
  } else {
    status = group_->barrier.Arrive(rank(), slot.operation);
  }
  if (!status.ok()) AwaitCopies();
  parity_ ^= 1;
  return status;
}

template <typename Work>
absl::Status InprocCommunicator::MeetAndWork(const Slot& slot, Work work) {
  // In one order with the failing of the group: a rank that finds nobody copying after a failure
  // knows that nobody begins to.
  std::atomic<bool>& copying = group_->ranks[rank()].copying;
  copying.store(true);
  const absl::Status status = Meet(slot, [&] {
    if (CheckPeers().ok()) work();
  });
  copying.store(false);
  if (!status.ok()) AwaitCopies();
  parity_ ^= 1;
  return status;
}

absl::Status InprocCommunicator::CheckPeers() const {
  const Slot& mine = Peer(rank());
  for (int r = 0; r < size(); ++r) {
    const Slot& other = Peer(r);
    if (other.operation == mine.operation && other.bytes == mine.bytes) continue;
    return absl::InternalError(absl::StrCat(
        "rank ", rank(), " called ",
        absl::string_view(mine.operation.data(), mine.operation.size()), " of ", mine.bytes,
        " bytes but rank ", r, " called ",
        absl::string_view(other.operation.data(), other.operation.size()), " of ", other.bytes));
  }
  return absl::OkStatus();
}

void InprocCommunicator::AwaitCopies() const {
  for (const InprocGroup::Rank& other : group_->ranks) {
    while (other.copying.load()) {
      if (seat_ != nullptr) {
        seat_->Yield();
      } else {
        std::this_thread::yield();
      }
    }
  }
}

absl::Status InprocCommunicator::BarrierHost() {
  const absl::Status status = Meet({.operation = "Barrier"});
  parity_ ^= 1;
  return status;
}

absl::Status InprocCommunicator::ReduceStaged(const Slot& slot, int64_t count, DType dtype) {
  char* data = slot.out;
  CopyBytes(data, slot.bytes, Staging(rank()));
  RETURN_IF_ERROR(Meet(slot));
  SumRanks({.inputs = staged_[parity_], .outputs = {&data, 1}, .count = count, .dtype = dtype});
  parity_ ^= 1;
  return absl::OkStatus();
}

absl::Status InprocCommunicator::ReduceHost(char* data, int64_t count, DType dtype) {
  const int64_t bytes = count * static_cast<int64_t>(SizeOf(dtype));
  const Slot slot{.operation = "AllReduce", .bytes = bytes, .out = data};
  const auto sum_all = [&](int64_t begin, int64_t length) {
    std::vector<char*> all(size());
    for (int r = 0; r < size(); ++r) all[r] = Peer(r).out;
    SumRanks({.inputs = {all.data(), all.size()},
              .outputs = absl::MakeSpan(all),
              .begin = begin,
              .count = length,
              .dtype = dtype});
  };
  const bool small = bytes * size() <= kOneMeetingTotal;
  if (small && !group_->barrier.spins()) {
    return MeetAndWork(slot, [&] { sum_all(0, count); });
  }
  // With a core for every rank adding everything is quicker than waiting for a sum.
  if (small && bytes <= kStagingBytes) return ReduceStaged(slot, count, dtype);
  return MeetAndCopy(slot, [&] {
    // Each rank sums one slice and writes it to all; nobody else touches that slice.
    const int64_t even = (count + size() - 1) / size();
    const int64_t width = (even + kSliceElements - 1) / kSliceElements * kSliceElements;
    const int64_t begin = std::min(count, rank() * width);
    sum_all(begin, std::min(width, count - begin));
    return absl::OkStatus();
  });
}

absl::Status InprocCommunicator::GatherHost(const GatherCall& call) {
  const int64_t bytes = call.bytes;
  const Slot slot{.operation = call.root == kAllRanks ? "AllGather" : "Gather",
                  .bytes = bytes,
                  .in = call.in,
                  .out = call.out};
  if (bytes <= kStagingBytes) {
    CopyBytes(call.in, bytes, Staging(rank()));
    RETURN_IF_ERROR(Meet(slot));
    for (int r = 0; r < size() && call.out != nullptr; ++r) {
      CopyBytes(Staging(r), bytes, call.out + r * bytes);
    }
    parity_ ^= 1;
    return absl::OkStatus();
  }
  return MeetAndCopy(slot, [&] {
    for (int r = 0; r < size() && call.out != nullptr; ++r) {
      CopyBytes(Peer(r).in, bytes, call.out + r * bytes);
    }
    return absl::OkStatus();
  });
}

absl::Status InprocCommunicator::ReduceScatterHost(const char* in, char* out, int64_t count,
                                                   DType dtype) {
  const int64_t bytes = count * static_cast<int64_t>(SizeOf(dtype));
  return MeetAndCopy({.operation = "ReduceScatter", .bytes = bytes, .in = in}, [&] {
    std::vector<const char*> inputs(size());
    for (int r = 0; r < size(); ++r) inputs[r] = Peer(r).in + rank() * bytes;
    SumRanks({.inputs = inputs, .outputs = {&out, 1}, .count = count, .dtype = dtype});
    return absl::OkStatus();
  });
}

int64_t TotalChunkBytes(absl::Span<const HostPart> parts) {
  int64_t total = 0;
  for (const HostPart& part : parts) total += part.chunk_bytes();
  return total;
}

// The rows that rank `from` shows for rank `to` (all of the chunk when `rows` is null), after
// checking that they fit.
absl::Status CopyRows(const InprocGroup::Slot& source, int from, int to, const int32_t* rows,
                      absl::Span<const HostPart> parts) {
  for (size_t i = 0; i < parts.size(); ++i) {
    const HostPart& mine = parts[i];
    const int64_t count = rows != nullptr ? *rows : mine.capacity;
    if (i >= source.parts.size() || source.parts[i].row_bytes != mine.row_bytes ||
        source.parts[i].capacity != mine.capacity || count < 0 || count > mine.capacity) {
      return absl::InternalError(absl::StrCat("rank ", from, " offers ", count,
                                              " rows that do not fit a chunk of ", mine.capacity,
                                              " rows of ", mine.row_bytes, " bytes on rank ", to));
    }
    CopyBytes(source.parts[i].in + to * mine.chunk_bytes(), count * mine.row_bytes,
              mine.out + from * mine.chunk_bytes());
  }
  return absl::OkStatus();
}

absl::Status InprocCommunicator::ExchangeHost(absl::Span<const HostPart> parts) {
  const Slot slot{.operation = "AllToAll", .bytes = TotalChunkBytes(parts), .parts = parts};
  return MeetAndCopy(slot, [&] {
    for (int r = 0; r < size(); ++r) {
      RETURN_IF_ERROR(CopyRows(Peer(r), r, rank(), nullptr, parts));
    }
    return absl::OkStatus();
  });
}

absl::Status InprocCommunicator::ExchangeRowsHost(absl::Span<const HostPart> parts,
                                                  const int32_t* send_counts,
                                                  int32_t* recv_counts) {
  const Slot slot{.operation = "AllToAllV",
                  .bytes = TotalChunkBytes(parts),
                  .parts = parts,
                  .counts = send_counts};
  return MeetAndCopy(slot, [&] {
    for (int r = 0; r < size(); ++r) {
      recv_counts[r] = Peer(r).counts[rank()];
      RETURN_IF_ERROR(CopyRows(Peer(r), r, rank(), &recv_counts[r], parts));
    }
    return absl::OkStatus();
  });
}

absl::Status InprocCommunicator::BroadcastHost(char* data, int64_t bytes, int root) {
  return MeetAndCopy({.operation = "Broadcast", .bytes = bytes, .in = data}, [&] {
    if (rank() != root) CopyBytes(Peer(root).in, bytes, data);
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
