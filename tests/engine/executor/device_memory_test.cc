// The KV cache of emulated GPUs, sized by what the largest step leaves of their memory.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>

#include "engine/executor/local_executor.h"
#include "engine/kv_preparation.h"
#include "kernels/cuda/emulation/emulator.h"
#include "kernels/cuda/fake/emulated_gpus.h"

namespace tessera {
namespace {

using testing::AllOf;
using testing::HasSubstr;

constexpr size_t kMemory = size_t{48} << 20;

class DeviceMemoryTest : public testing::Test {
 protected:
  DeviceMemoryTest() {
    emulated_.memory_bytes = kMemory;
    emulated_.preempt_every = 0;
    emulated_.check_races = false;
    options_.model.model_dir = TESSERA_NANO_MODEL;
    options_.model.backend = "cuda-emulated";
    options_.scheduler = {.max_num_seqs = 5, .max_num_batched_tokens = 6};
    options_.gpu_memory_utilization = 0.75;
    simt::emulation::SetOptions(emulated_);
  }
  ~DeviceMemoryTest() override { simt::emulation::SetOptions(before_); }

  absl::StatusOr<std::unique_ptr<Executor>> Load() {
    config_ = *LoadModelConfig(options_.model.model_dir);
    return CreateLocalExecutor(options_.model,
                               {.max_num_batched_tokens = options_.scheduler.max_num_batched_tokens,
                                .max_num_seqs = options_.scheduler.max_num_seqs,
                                .step_timeout = absl::Minutes(10)},
                               config_, nullptr);
  }

  const simt::emulation::Options before_ = simt::emulation::GetOptions();
  simt::emulation::Options emulated_ = before_;
  EngineOptions options_;
  ModelConfig config_;
};

TEST_F(DeviceMemoryTest, IsUsedUpToTheShare) {
  for (const int32_t ranks : {1, 2}) {
    options_.model.layout.tensor_parallel = ranks;
    const auto executor = Load();
    ASSERT_TRUE(executor.ok()) << executor.status();
    const int64_t for_graphs = (*executor)->memory().graph_bytes;  // emulated ones take nothing
    EXPECT_GT(for_graphs, 0);
    const uint64_t captured = simt::fake::CountedGraphCalls().captured;
    const auto sizing = PrepareKv(options_, config_, **executor);
    ASSERT_TRUE(sizing.ok()) << sizing.status();
    const int32_t graphs = (*executor)->facts().step_graphs.count;
    EXPECT_GT(graphs, 0);
    EXPECT_EQ(simt::fake::CountedGraphCalls().captured - captured, uint64_t(ranks * graphs))
        << "graphs are captured more than once";
    const MemoryReport memory = (*executor)->memory();
    EXPECT_EQ(memory.graph_bytes, 0);
    EXPECT_EQ(memory.device_bytes, kMemory);
    const int64_t used = memory.device_bytes - memory.device_free_bytes;
    EXPECT_LE(used, kMemory * 3 / 4);
    EXPECT_GT(used, kMemory * 3 / 4 - for_graphs - 2 * memory.kv_block_bytes);
  }
}

TEST_F(DeviceMemoryTest, WeightsThatDoNotFitAreRefusedBeforeTheyAreRead) {
  emulated_.memory_bytes = size_t{8} << 20;
  simt::emulation::SetOptions(emulated_);
  EXPECT_THAT(
      std::string(Load().status().message()),
      AllOf(HasSubstr("GPU 0"), HasSubstr("8388608 bytes free"),
            HasSubstr("--tensor-parallel-size 2 would fit"), testing::Not(HasSubstr("\n"))));
  options_.model.layout.tensor_parallel = 2;
  // The vocabulary is padded, and there are buffers: two ranks may still be too few for all.
  const auto two = Load();
  EXPECT_THAT(std::string(two.status().message()), testing::Not(HasSubstr("weights of a rank")));
}

}  // namespace
}  // namespace tessera
