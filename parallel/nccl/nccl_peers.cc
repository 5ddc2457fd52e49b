// What ranks do over each other's memory, without NCCL.
#include <algorithm>
#include <limits>
#include <vector>

#include "kernels/core/status_macros.h"
#include "parallel/nccl/nccl_communicator.h"

namespace tessera::cuda {

absl::Status NcclCommunicator::CheckConnected() const {
  absl::MutexLock lock(&mutex_);
  return given_up_;
}

absl::Status NcclCommunicator::SumByPeers(char* data, int64_t count, DType dtype) {
  RETURN_IF_ERROR(CheckConnected());
  const auto element = static_cast<int64_t>(SizeOf(dtype));
  const int64_t most = peers_->blocks() * kPeerBlockElements;
  for (int64_t begin = 0; begin < count; begin += most) {
    RETURN_IF_ERROR(
        CudaStatus(LaunchPeerSum(device_->stream(),
                                 {.group = peers_->group(),
                                  .data = data + begin * element,
                                  .element = dtype == DType::kF32 ? Element::kF32 : Element::kBf16,
                                  .count = std::min(most, count - begin)}),
                   "adding ranks"));
  }
  return absl::OkStatus();
}

std::optional<PeerExchangeLaunch> NcclCommunicator::PeerExchangeOf(
    absl::Span<const Chunks> parts, const int32_t* recv_counts) const {
  if (peers_ == nullptr || parts.empty() || parts.size() > kMaxPeerParts ||
      parts[0].capacity > std::numeric_limits<int32_t>::max() / size()) {
    return std::nullopt;
  }
  const PeerMemory::Region* region = peers_->Find(parts[0].out, 0);
  if (region == nullptr) return std::nullopt;
  const char* base = region->memory[rank_];
  PeerExchangeLaunch launch{.group = peers_->group(),
                            .num_parts = static_cast<int32_t>(parts.size()),
                            .capacity = static_cast<int32_t>(parts[0].capacity),
                            .fault = device_->fault()};
  std::copy_n(region->memory, kMaxPeers, launch.memory);
  for (size_t i = 0; i < parts.size(); ++i) {
    const Chunks& part = parts[i];
    const int64_t bytes = size() * part.capacity * part.row_bytes;
    if (part.capacity != launch.capacity || peers_->Find(part.out, bytes) != region) {
      return std::nullopt;
    }
    launch.parts[i] = {.in = part.in, .out = part.out - base, .row_bytes = part.row_bytes};
  }
  if (recv_counts != nullptr) {
    const auto bytes = int64_t{size()} * static_cast<int64_t>(sizeof(int32_t));
    if (peers_->Find(recv_counts, bytes) != region) return std::nullopt;
    launch.recv_counts = reinterpret_cast<const char*>(recv_counts) - base;
  }
  return launch;
}

absl::Status NcclCommunicator::ExchangeByPeers(const PeerExchangeLaunch& launch) {
  RETURN_IF_ERROR(CheckConnected());
  return CudaStatus(LaunchPeerExchange(device_->stream(), launch, peers_->blocks()),
                    "exchanging rows");
}

absl::Status NcclCommunicator::TellAll(const void* own, void* all, int64_t bytes) {
  DeviceBuffer buffer;
  ASSIGN_OR_RETURN(buffer, device_->Allocate(static_cast<size_t>((1 + size()) * bytes),
                                             "what ranks tell each other"));
  const TensorView rows = buffer.View(DType::kU8, {1 + size(), bytes});
  device_->Upload(rows.data(), own, static_cast<size_t>(bytes));
  AllGather(rows.Rows(0, 1), rows.Rows(1, size()));
  device_->Download(all, rows.Rows(1, size()).data(), static_cast<size_t>(size() * bytes));
  return device_->Synchronize();
}

absl::StatusOr<void*> NcclCommunicator::ShareMemory(int64_t bytes) {
  if (peers_ == nullptr) return nullptr;
  const PeerMemory::Share own = peers_->MakeShare(bytes);
  std::vector<PeerMemory::Share> shares(static_cast<size_t>(size()));
  RETURN_IF_ERROR(TellAll(&own, shares.data(), sizeof(own)));
  PeerMemory::Region region{.bytes = bytes};
  const int32_t opened = peers_->OpenShares(shares, &region) ? 1 : 0;
  std::vector<int32_t> all(static_cast<size_t>(size()));
  RETURN_IF_ERROR(TellAll(&opened, all.data(), sizeof(opened)));
  if (std::find(all.begin(), all.end(), 0) != all.end()) {
    peers_->Forget(own);
    return nullptr;
  }
  peers_->Add(region);
  return region.memory[rank_];
}

}  // namespace tessera::cuda
