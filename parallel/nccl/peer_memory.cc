#include "parallel/nccl/peer_memory.h"

#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/core/status_macros.h"
#include "kernels/cuda/cuda_error.h"

namespace tessera::cuda {
namespace {

constexpr char kAccepted[] = "+";
constexpr char kRefused[] = "-";

// The same for all processes of a machine that has been started once.
std::string HostName() {
  std::string id;
  std::getline(std::ifstream("/proc/sys/kernel/random/boot_id"), id);
  return id;
}

template <size_t kBytes>
void Write(const std::string& text, char (&to)[kBytes]) {
  std::snprintf(to, kBytes, "%s", text.c_str());
}

}  // namespace

PeerWindows::~PeerWindows() {
  absl::MutexLock lock(&mutex_);
  for (const Window& window : windows_) {
    cudaSetDevice(window.device);
    cudaFree(window.data);
  }
}

absl::StatusOr<char*> PeerWindows::Allocate(CudaDevice& device, size_t bytes) {
  const auto status = [&](cudaError_t error) {
    return ToStatus(error, device.index(), "sharing memory with peers");
  };
  void* data = nullptr;
  cudaError_t error = cudaMalloc(&data, bytes);
  if (error != cudaSuccess) {
    cudaGetLastError();  // is not that of a later call
    return status(error);
  }
  {
    absl::MutexLock lock(&mutex_);
    windows_.push_back({.device = device.index(), .data = static_cast<char*>(data)});
  }
  error = cudaMemsetAsync(data, 0, bytes, device.stream());
  if (error == cudaSuccess) error = cudaStreamSynchronize(device.stream());
  if (error != cudaSuccess) return status(error);
  return static_cast<char*>(data);
}

void PeerWindows::KeepForever(const char* window) {
  absl::MutexLock lock(&mutex_);
  std::erase_if(windows_, [&](const Window& each) { return each.data == window; });
}

void PeerWindows::Free(char* window) {
  {
    absl::MutexLock lock(&mutex_);
    const auto freed = [&](const Window& each) { return each.data == window; };
    if (std::erase_if(windows_, freed) == 0) return;
  }
  cudaFree(window);
}

// What a rank tells the others. All ranks are the same program.
struct PeerMemory::Offer {
  char host[40];
  char process[40];
  int32_t device;
  int32_t blocks;
  char* window;  // null: none
  cudaIpcMemHandle_t handle;
};

absl::Status PeerMemory::Prepare(NcclGroup& group, const Member& member, Offer* offer) {
  const int gpu = device_->index();
  blocks_ = std::min(device_->properties().multiProcessorCount, kMaxPeerBlocks);
  offer->blocks = blocks_;
  RETURN_IF_ERROR(ToStatus(cudaHostAlloc(reinterpret_cast<void**>(&stop_), sizeof(*stop_),
                                         cudaHostAllocMapped | cudaHostAllocPortable),
                           gpu, "mapping host memory"));
  *stop_ = 0;
  void* mapped = nullptr;
  RETURN_IF_ERROR(
      ToStatus(cudaHostGetDevicePointer(&mapped, stop_, 0), gpu, "mapping host memory"));
  group_.stop = static_cast<const uint32_t*>(mapped);
  group_.rank = member.rank;
  group_.ranks = group.size();
  windows_ = group.Windows();
  const auto bytes = static_cast<size_t>(PeerWindowBytes(group.size(), blocks_));
  char* window = nullptr;
  ASSIGN_OR_RETURN(window, windows_->Allocate(*device_, bytes));
  group_.windows[member.rank] = window;
  RETURN_IF_ERROR(ToStatus(cudaIpcGetMemHandle(&offer->handle, window), gpu, "sharing memory"));
  offer->window = window;
  return absl::OkStatus();
}

PeerMemory::Offer PeerMemory::MakeOffer(NcclGroup& group, const Member& member) {
  Offer offer{};
  Write(HostName(), offer.host);
  // Ranks that share a group share a process.
  Write(absl::StrCat(getpid(), "/", reinterpret_cast<uintptr_t>(&group)), offer.process);
  offer.device = device_->index();
  if (group.size() > kMaxPeers || !Prepare(group, member, &offer).ok()) cudaGetLastError();
  return offer;
}

absl::StatusOr<char*> PeerMemory::OpenHandle(const cudaIpcMemHandle_t& handle) {
  void* memory = nullptr;
  RETURN_IF_ERROR(ToStatus(cudaIpcOpenMemHandle(&memory, handle, cudaIpcMemLazyEnablePeerAccess),
                           device_->index(), "opening a peer's memory"));
  opened_.push_back(static_cast<char*>(memory));
  return opened_.back();
}

PeerMemory::Share PeerMemory::MakeShare(int64_t bytes) {
  Share share{};
  cudaSetDevice(device_->index());
  const absl::StatusOr<char*> memory = windows_->Allocate(*device_, static_cast<size_t>(bytes));
  if (!memory.ok()) return share;
  if (cudaIpcGetMemHandle(&share.handle, *memory) == cudaSuccess) {
    share.memory = *memory;
  } else {
    cudaGetLastError();
    windows_->Free(*memory);
  }
  return share;
}

bool PeerMemory::OpenShares(absl::Span<const Share> shares, Region* region) {
  for (const Share& share : shares) {
    if (share.memory == nullptr) return false;
  }
  for (size_t rank = 0; rank < shares.size(); ++rank) {
    region->memory[rank] = shares[rank].memory;
    if (local_[rank] || static_cast<int>(rank) == group_.rank) continue;
    windows_->KeepForever(shares[static_cast<size_t>(group_.rank)].memory);
    const absl::StatusOr<char*> opened = OpenHandle(shares[rank].handle);
    if (!opened.ok()) {
      cudaGetLastError();
      return false;
    }
    region->memory[rank] = *opened;
  }
  return true;
}

const PeerMemory::Region* PeerMemory::Find(const void* begin, int64_t bytes) const {
  const auto at = reinterpret_cast<uintptr_t>(begin);
  for (const Region& region : regions_) {
    const auto base = reinterpret_cast<uintptr_t>(region.memory[group_.rank]);
    if (at >= base &&
        at + static_cast<uintptr_t>(bytes) <= base + static_cast<uintptr_t>(region.bytes)) {
      return &region;
    }
  }
  return nullptr;
}

absl::Status PeerMemory::Reach(const Offer& own, const Offer& peer, int rank) {
  const auto status = [&](cudaError_t error) {
    return ToStatus(error, own.device, "opening a peer's memory");
  };
  if (std::strcmp(own.process, peer.process) != 0) {
    ASSIGN_OR_RETURN(group_.windows[rank], OpenHandle(peer.handle));
    return absl::OkStatus();
  }
  local_[rank] = true;
  int can = 0;
  RETURN_IF_ERROR(status(cudaDeviceCanAccessPeer(&can, own.device, peer.device)));
  if (can == 0) return absl::UnavailableError("GPUs without access to each other");
  const cudaError_t error = cudaDeviceEnablePeerAccess(peer.device, 0);
  if (error != cudaErrorPeerAccessAlreadyEnabled) RETURN_IF_ERROR(status(error));
  cudaGetLastError();
  group_.windows[rank] = peer.window;
  return absl::OkStatus();
}

absl::Status PeerMemory::Open(const Offer& own, const std::vector<Offer>& offers) {
  for (const Offer& offer : offers) {
    if (offer.window == nullptr || offer.blocks != own.blocks || own.host[0] == '\0' ||
        std::strcmp(offer.host, own.host) != 0) {
      return absl::UnavailableError("ranks without memory for each other");
    }
    if (std::strcmp(offer.process, own.process) != 0) windows_->KeepForever(own.window);
  }
  for (size_t rank = 0; rank < offers.size(); ++rank) {
    if (static_cast<int>(rank) == group_.rank) continue;
    RETURN_IF_ERROR(Reach(own, offers[rank], static_cast<int>(rank)));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<PeerMemory>> PeerMemory::Join(NcclGroup& group,
                                                             const Member& member) {
  std::unique_ptr<PeerMemory> made(new PeerMemory(member.device));
  const Offer own = made->MakeOffer(group, member);
  const auto key = [&](const char* what, int rank) {
    return absl::StrCat(group.name(), "/peers/", what, " ", rank);
  };
  const std::string bytes(reinterpret_cast<const char*>(&own), sizeof(own));
  RETURN_IF_ERROR(member.store->Set(key("offer", member.rank), bytes));
  std::vector<Offer> offers(static_cast<size_t>(group.size()));
  for (int rank = 0; rank < group.size(); ++rank) {
    std::string offer;
    ASSIGN_OR_RETURN(offer, group.Await(*member.store, key("offer", rank), member.timeout));
    if (offer.size() == sizeof(Offer)) {
      std::memcpy(&offers[static_cast<size_t>(rank)], offer.data(), sizeof(Offer));
    }
  }
  // Whoever cannot keeps all others from it.
  bool all = made->Open(own, offers).ok();
  if (!all) cudaGetLastError();
  RETURN_IF_ERROR(member.store->Set(key("answer", member.rank), all ? kAccepted : kRefused));
  for (int rank = 0; rank < group.size(); ++rank) {
    std::string answer;
    ASSIGN_OR_RETURN(answer, group.Await(*member.store, key("answer", rank), member.timeout));
    all = all && answer == kAccepted;
  }
  if (all) return made;
  // Here and now: freeing waits for the GPU. The last of the ranks would wait for GPUs of others,
  // which may already wait for it in a collective operation.
  if (own.window != nullptr) made->windows_->Free(own.window);
  return nullptr;
}

PeerMemory::~PeerMemory() {
  cudaSetDevice(device_->index());
  if (stop_ == nullptr) return;
  Stop();
  cudaStreamSynchronize(device_->stream());
  for (char* window : opened_) cudaIpcCloseMemHandle(window);
  cudaFreeHost(stop_);
}

void PeerMemory::Stop() { __atomic_store_n(stop_, 1U, __ATOMIC_RELEASE); }

}  // namespace tessera::cuda
