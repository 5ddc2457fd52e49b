// Groups of ranks on emulated GPUs, one thread and one GPU each.
#ifndef TESSERA_TESTS_PARALLEL_NCCL_EMULATED_RANKS_H_
#define TESSERA_TESTS_PARALLEL_NCCL_EMULATED_RANKS_H_

#include <memory>

#include "gtest/gtest.h"
#include "kernels/cuda/cuda_device.h"
#include "kernels/cuda/fake/emulated_gpus.h"
#include "parallel/nccl/gpu_transport.h"
#include "tests/parallel/transport.h"

namespace tessera {

inline void RunEmulatedRank(GpuTransport& transport, const GpuGroup& group, const RankBody& body) {
  auto device = cuda::CudaDevice::Create(group.rank);
  ASSERT_TRUE(device.ok()) << device.status();
  auto communicator = transport.Join(group, device->get());
  ASSERT_TRUE(communicator.ok()) << communicator.status();
  body(**communicator, **device);
  (*device)->Synchronize().IgnoreError();
}

inline Transport EmulatedGpus() {
  return {.name = "EmulatedGpus",
          .sizes = {1, 2, 3, 8},
          .run = [](int size, absl::Duration timeout, const RankBody& body) {
            const auto transport = CreateEmulatedGpuTransport();
            ASSERT_TRUE(transport.ok()) << transport.status();
            RunRankThreads(size, [&](int rank) {
              RunEmulatedRank(**transport,
                              {.name = "test", .rank = rank, .size = size, .timeout = timeout},
                              body);
            });
            EXPECT_EQ(simt::fake::AnyReport(), "");
            simt::fake::Reset();
          }};
}

}  // namespace tessera

#endif  // TESSERA_TESTS_PARALLEL_NCCL_EMULATED_RANKS_H_
