// Emulated GPUs that reach each other's memory, driven by one thread.
#ifndef TESSERA_TESTS_KERNELS_CUDA_PEER_RANKS_H_
#define TESSERA_TESTS_KERNELS_CUDA_PEER_RANKS_H_

#include <cuda_runtime.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "kernels/cuda/fake/emulated_gpus.h"
#include "kernels/cuda/kernels/peer_memory.h"
#include "tests/kernels/cuda/gpu_array.h"

namespace tessera {

class PeerRanks {
 public:
  static constexpr int kBlocks = 4;  // multiprocessors of emulated GPUs

  explicit PeerRanks(int ranks) : streams_(static_cast<size_t>(ranks)) {
    const auto bytes = static_cast<size_t>(cuda::PeerWindowBytes(ranks, kBlocks));
    EXPECT_EQ(cudaHostAlloc(reinterpret_cast<void**>(&stop_), sizeof(uint32_t),
                            cudaHostAllocMapped | cudaHostAllocPortable),
              cudaSuccess);
    *stop_ = 0;
    for (int rank = 0; rank < ranks; ++rank) {
      cudaSetDevice(rank);
      for (int peer = 0; peer < ranks; ++peer) {
        if (peer != rank) cudaDeviceEnablePeerAccess(peer, 0);
      }
      EXPECT_EQ(cudaStreamCreateWithFlags(&streams_[static_cast<size_t>(rank)], 1), cudaSuccess);
      windows_.push_back(std::make_unique<GpuArray<char>>(bytes));
      cudaMemset(windows_.back()->get(), 0, bytes);
    }
  }
  ~PeerRanks() {
    simt::fake::Reset();
    for (size_t rank = 0; rank < streams_.size(); ++rank) {
      cudaSetDevice(static_cast<int>(rank));
      cudaStreamDestroy(streams_[rank]);
    }
    cudaSetDevice(0);
    windows_.clear();
    cudaFreeHost(stop_);
  }

  int size() const { return static_cast<int>(streams_.size()); }
  cudaStream_t stream(int rank) const { return streams_[static_cast<size_t>(rank)]; }
  cuda::PeerGroup Group(int rank) const {
    cuda::PeerGroup group{.windows = {}, .rank = rank, .ranks = size(), .stop = stop_};
    for (int r = 0; r < size(); ++r) group.windows[r] = windows_[static_cast<size_t>(r)]->get();
    return group;
  }
  void Stop() { __atomic_store_n(stop_, 1U, __ATOMIC_RELEASE); }
  // What was found, or nothing.
  std::string Wait() {
    for (int rank = 0; rank < size(); ++rank) {
      cudaSetDevice(rank);
      cudaStreamSynchronize(stream(rank));
    }
    cudaSetDevice(0);
    std::string reports;
    for (int rank = 0; rank < size(); ++rank) reports += simt::fake::Report(rank);
    return reports;
  }

 private:
  uint32_t* stop_ = nullptr;
  std::vector<cudaStream_t> streams_;
  std::vector<std::unique_ptr<GpuArray<char>>> windows_;
};

}  // namespace tessera

#endif  // TESSERA_TESTS_KERNELS_CUDA_PEER_RANKS_H_
