#include "parallel/gloo/gloo_communicator.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/core/status_macros.h"
#include "parallel/gloo/message_exchange.h"
#include "parallel/host_communicator.h"
#include "parallel/rank_sum.h"

namespace tessera {
namespace {

// Up to this size every rank sends all of its input to every other: one round instead of two.
constexpr int64_t kOneRoundBytes = int64_t{64} << 10;
constexpr int64_t kSliceElements = 64;

class GlooCommunicator : public HostCommunicator {
 public:
  GlooCommunicator(std::shared_ptr<GlooEndpoint> endpoint, const GlooGroup& group, Device* device)
      : HostCommunicator(device, group.rank, group.size), exchange_(std::move(endpoint), group) {}

  absl::Status Connect(RendezvousStore* store) { return exchange_.Connect(store); }
  void Abort(const absl::Status& reason) override { exchange_.Fail(reason).IgnoreError(); }
  absl::Status Health() const override { return exchange_.status(); }

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
  // Peers in an order that spreads the load: the rank after this one first.
  std::vector<int> Peers() const;
  absl::Status SendTo(int peer, const char* data, int64_t bytes, uint32_t tag = 0) {
    return exchange_.PostSend({peer, tag, const_cast<char*>(data), bytes});
  }
  absl::Status ReceiveFrom(int peer, char* data, int64_t bytes, uint32_t tag = 0) {
    return exchange_.PostReceive({peer, tag, data, bytes});
  }
  absl::Status ReduceInSlices(char* data, int64_t count, DType dtype);
  // Room for one array of `bytes` per rank.
  char* Scratch(int64_t bytes);
  std::vector<const char*> RankArrays(const char* scratch, int64_t bytes, const char* own) const;

  MessageExchange exchange_;
  std::vector<char> scratch_;
};

std::vector<int> GlooCommunicator::Peers() const {
  std::vector<int> peers;
  for (int i = 1; i < size(); ++i) peers.push_back((rank() + i) % size());
  return peers;
}

char* GlooCommunicator::Scratch(int64_t bytes) {
  const auto total = static_cast<size_t>(bytes * size());
  if (scratch_.size() < total) scratch_.resize(total);
  return scratch_.data();
}

std::vector<const char*> GlooCommunicator::RankArrays(const char* scratch, int64_t bytes,
                                                      const char* own) const {
  std::vector<const char*> arrays(size());
  for (int r = 0; r < size(); ++r) arrays[r] = r == rank() ? own : scratch + r * bytes;
  return arrays;
}

absl::Status GlooCommunicator::ReduceHost(char* data, int64_t count, DType dtype) {
  const int64_t bytes = count * static_cast<int64_t>(SizeOf(dtype));
  if (bytes > kOneRoundBytes) return ReduceInSlices(data, count, dtype);
  char* scratch = Scratch(bytes);
  exchange_.BeginRound();
  for (int peer : Peers()) {
    RETURN_IF_ERROR(ReceiveFrom(peer, scratch + peer * bytes, bytes));
    RETURN_IF_ERROR(SendTo(peer, data, bytes));
  }
  RETURN_IF_ERROR(exchange_.Finish());
  SumRanks({.inputs = RankArrays(scratch, bytes, data),
            .outputs = {&data, 1},
            .count = count,
            .dtype = dtype});
  return absl::OkStatus();
}

// Every rank sums one slice and sends the result to all.
absl::Status GlooCommunicator::ReduceInSlices(char* data, int64_t count, DType dtype) {
  const auto element = static_cast<int64_t>(SizeOf(dtype));
  const int64_t even = (count + size() - 1) / size();
  const int64_t width = (even + kSliceElements - 1) / kSliceElements * kSliceElements;
  const auto begin = [&](int r) { return std::min(count, r * width); };
  const auto length = [&](int r) { return std::min(width, count - begin(r)); };
  const int64_t mine = length(rank()) * element;
  char* slice = data + begin(rank()) * element;
  char* scratch = Scratch(mine);
  exchange_.BeginRound();
  for (int peer : Peers()) {
    RETURN_IF_ERROR(ReceiveFrom(peer, scratch + peer * mine, mine));
    RETURN_IF_ERROR(SendTo(peer, data + begin(peer) * element, length(peer) * element));
  }
  RETURN_IF_ERROR(exchange_.Finish());
  SumRanks({.inputs = RankArrays(scratch, mine, slice),
            .outputs = {&slice, 1},
            .count = length(rank()),
            .dtype = dtype});
  exchange_.BeginRound();
  for (int peer : Peers()) {
    RETURN_IF_ERROR(ReceiveFrom(peer, data + begin(peer) * element, length(peer) * element));
    RETURN_IF_ERROR(SendTo(peer, slice, mine));
  }
  return exchange_.Finish();
}

absl::Status GlooCommunicator::GatherHost(const GatherCall& call) {
  exchange_.BeginRound();
  if (rank() != call.root) {
    RETURN_IF_ERROR(SendTo(call.root, call.in, call.bytes));
    return exchange_.Finish();
  }
  for (int peer : Peers()) {
    RETURN_IF_ERROR(ReceiveFrom(peer, call.out + peer * call.bytes, call.bytes));
  }
  CopyBytes(call.in, call.bytes, call.out + rank() * call.bytes);
  return exchange_.Finish();
}

absl::Status GlooCommunicator::ReduceScatterHost(const char* in, char* out, int64_t count,
                                                 DType dtype) {
  const int64_t bytes = count * static_cast<int64_t>(SizeOf(dtype));
  char* scratch = Scratch(bytes);
  exchange_.BeginRound();
  for (int peer : Peers()) {
    RETURN_IF_ERROR(ReceiveFrom(peer, scratch + peer * bytes, bytes));
    RETURN_IF_ERROR(SendTo(peer, in + peer * bytes, bytes));
  }
  RETURN_IF_ERROR(exchange_.Finish());
  SumRanks({.inputs = RankArrays(scratch, bytes, in + rank() * bytes),
            .outputs = {&out, 1},
            .count = count,
            .dtype = dtype});
  return absl::OkStatus();
}

absl::Status GlooCommunicator::ExchangeHost(std::string_view /*operation*/,
                                            absl::Span<const HostPart> parts) {
  exchange_.BeginRound();
  for (uint32_t i = 0; i < parts.size(); ++i) {
    const HostPart& part = parts[i];
    const int64_t chunk = part.chunk_bytes();
    for (int peer : Peers()) {
      RETURN_IF_ERROR(ReceiveFrom(peer, part.chunk_from(peer), chunk, i));
      RETURN_IF_ERROR(SendTo(peer, part.chunk_for(peer), chunk, i));
    }
    CopyBytes(part.chunk_for(rank()), chunk, part.chunk_from(rank()));
  }
  return exchange_.Finish();
}

absl::Status GlooCommunicator::ExchangeRowsHost(absl::Span<const HostPart> parts,
                                                const int32_t* send_counts, int32_t* recv_counts) {
  const auto fits = [&](int32_t count) {
    return std::all_of(parts.begin(), parts.end(), [count](const HostPart& part) {
      return count >= 0 && count <= part.capacity;
    });
  };
  for (int r = 0; r < size(); ++r) {
    if (fits(send_counts[r])) continue;
    return exchange_.Fail(absl::InternalError(absl::StrCat(
        "rank ", rank(), " has ", send_counts[r], " rows for rank ", r, ", more than a chunk")));
  }
  exchange_.BeginRound();
  for (int peer : Peers()) {
    RETURN_IF_ERROR(
        ReceiveFrom(peer, reinterpret_cast<char*>(recv_counts + peer), sizeof(int32_t)));
    RETURN_IF_ERROR(
        SendTo(peer, reinterpret_cast<const char*>(send_counts + peer), sizeof(int32_t)));
  }
  for (uint32_t i = 0; i < parts.size(); ++i) {
    const HostPart& part = parts[i];
    for (int peer : Peers()) {
      RETURN_IF_ERROR(
          SendTo(peer, part.chunk_for(peer), send_counts[peer] * part.row_bytes, i + 1));
    }
    CopyBytes(part.chunk_for(rank()), send_counts[rank()] * part.row_bytes,
              part.chunk_from(rank()));
  }
  RETURN_IF_ERROR(exchange_.FinishReceives());
  recv_counts[rank()] = send_counts[rank()];
  for (int peer : Peers()) {
    if (!fits(recv_counts[peer])) {
      return exchange_.Fail(absl::InternalError(absl::StrCat(
          "rank ", peer, " announced ", recv_counts[peer], " rows, more than a chunk")));
    }
    for (uint32_t i = 0; i < parts.size(); ++i) {
      RETURN_IF_ERROR(ReceiveFrom(peer, parts[i].chunk_from(peer),
                                  recv_counts[peer] * parts[i].row_bytes, i + 1));
    }
  }
  return exchange_.Finish();
}

absl::Status GlooCommunicator::BroadcastHost(char* data, int64_t bytes, int root) {
  exchange_.BeginRound();
  if (rank() != root) {
    RETURN_IF_ERROR(ReceiveFrom(root, data, bytes));
  } else {
    for (int peer : Peers()) RETURN_IF_ERROR(SendTo(peer, data, bytes));
  }
  return exchange_.Finish();
}

absl::Status GlooCommunicator::BarrierHost() {
  char sign = 1;
  char* scratch = Scratch(1);
  exchange_.BeginRound();
  for (int peer : Peers()) {
    RETURN_IF_ERROR(ReceiveFrom(peer, scratch + peer, 1));
    RETURN_IF_ERROR(SendTo(peer, &sign, 1));
  }
  return exchange_.Finish();
}

}  // namespace

absl::StatusOr<std::unique_ptr<Communicator>> JoinGlooGroup(std::shared_ptr<GlooEndpoint> endpoint,
                                                            RendezvousStore* store,
                                                            const GlooGroup& group,
                                                            Device* device) {
  if (group.size < 1 || group.rank < 0 || group.rank >= group.size) {
    return absl::InvalidArgumentError(
        absl::StrCat("rank ", group.rank, " is outside a group of ", group.size));
  }
  auto communicator = std::make_unique<GlooCommunicator>(std::move(endpoint), group, device);
  RETURN_IF_ERROR(communicator->Connect(store));
  return communicator;
}

}  // namespace tessera
