#include "parallel/experts/dispatcher.h"

#include "tests/parallel/experts/dispatch_invariants.h"

namespace tessera {
namespace {

INSTANTIATE_TEST_SUITE_P(Inproc, DispatchInvariants,
                         testing::Values(InprocTransport("Immediate", 0,
                                                         TestDevice::Queue::kImmediate),
                                         InprocTransport("Queued", 0, TestDevice::Queue::kThread),
                                         CarriedTransport("OnTwoThreads", 2)),
                         TransportName);

DispatcherOptions SmallOptions() {
  return {.max_tokens = 4,
          .hidden = 8,
          .top_k = 2,
          .placement = {.num_experts = 4, .num_ranks = 1, .slots_per_rank = 4}};
}

TEST(ExpertDispatcherTest, RefusesSizesThatDoNotAgree) {
  RunInproc(1, {}, TestDevice::Queue::kImmediate, [](Communicator& comm, Device& device) {
    TestExpertOps ops(&device);
    EXPECT_TRUE(ExpertDispatcher::Create(&ops, &comm, SmallOptions()).ok());
    DispatcherOptions options = SmallOptions();
    options.top_k = 5;
    EXPECT_FALSE(ExpertDispatcher::Create(&ops, &comm, options).ok());
    options = SmallOptions();
    options.placement = {.num_experts = 4, .num_ranks = 2, .slots_per_rank = 2};
    EXPECT_FALSE(ExpertDispatcher::Create(&ops, &comm, options).ok());
    options = SmallOptions();
    options.max_tokens = int64_t{1} << 31;
    EXPECT_THAT(std::string(ExpertDispatcher::Create(&ops, &comm, options).status().message()),
                testing::HasSubstr("use at most"));
  });
}

// The buffers allocated are the buffers announced.
TEST(ExpertDispatcherTest, BufferBytesIsWhatIsAllocated) {
  RunInproc(1, {}, TestDevice::Queue::kImmediate, [](Communicator& comm, Device& plain) {
    auto& device = dynamic_cast<TestDevice&>(plain);
    TestExpertOps ops(&device);
    const int64_t before = device.bytes_allocated();
    auto dispatcher = ExpertDispatcher::Create(&ops, &comm, SmallOptions());
    EXPECT_EQ(device.bytes_allocated() - before, ExpertDispatcher::BufferBytes(SmallOptions()));
  });
}

// Chunks that begin beyond 4 GiB: offsets must not wrap. Only touched pages take memory.
TEST(ExpertDispatcherTest, BuffersBeyondFourGigabytes) {
  const DispatchCase drawn = [] {
    DispatchCase one = DrawCase(5, 3, DType::kF32);
    one.hidden = 4096;
    one.capacity = 200000;
    one.shape = {.num_experts = 3, .num_ranks = 3, .slots_per_rank = 1};
    one.slot_experts = {2, 0, 1};
    one.top_k = 3;
    for (int r = 0; r < 3; ++r) {
      one.tokens[r] = 2;
      one.padding[r] = 0;
      one.ids[r] = {0, 1, 2, 2, 1, 0};
      one.weights[r] = {1, 2, 3, 4, 5, 6};
      one.x[r].resize(2 * one.hidden);
      for (size_t i = 0; i < one.x[r].size(); ++i) one.x[r][i] = static_cast<float>(i % 97);
    }
    return one;
  }();
  DispatcherOptions options = OptionsFor(drawn, CombineMode::kSummed, ExchangeMode::kCounted);
  options.max_tokens = drawn.capacity;
  EXPECT_GT(drawn.capacity * drawn.hidden * 4 * 2, int64_t{1} << 32);
  auto group = CreateInprocGroup(3, {});
  RunRankThreads(3, [&](int rank) {
    TestDevice device;
    auto comm = JoinInprocGroup(group, rank, &device);
    EXPECT_EQ(RunDispatch(*comm, device, drawn, options, {.poisoned_steps = 0}),
              SummedResult(drawn, rank));
  });
}

}  // namespace
}  // namespace tessera
