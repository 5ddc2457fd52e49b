// What dispatch and combine must hold on every transport. Include in one file of a test binary and
// instantiate the suite with the transports to test.
#ifndef TESSERA_TESTS_PARALLEL_EXPERTS_DISPATCH_INVARIANTS_H_
#define TESSERA_TESTS_PARALLEL_EXPERTS_DISPATCH_INVARIANTS_H_

#include <algorithm>
#include <cstring>
#include <functional>
#include <utility>
#include <vector>

#include "tests/parallel/experts/dispatch_case.h"

namespace tessera {

class DispatchInvariants : public testing::TestWithParam<Transport> {
 protected:
  using Check = std::function<void(Communicator&, Device&, const DispatchCase&)>;

  // `count` random cases on every world, float32 and bfloat16 by turns.
  void ForEachCase(uint32_t count, const Check& check) {
    for (int size : GetParam().sizes) {
      GetParam().run(size, absl::Seconds(60), [&](Communicator& comm, Device& device) {
        for (uint32_t seed = 1; seed <= count; ++seed) {
          SCOPED_TRACE(testing::Message() << GetParam().name << ", " << size << " ranks, seed "
                                          << seed << ", rank " << comm.rank());
          check(comm, device,
                DrawCase(seed * 100 + size, size, seed % 3 == 0 ? DType::kBF16 : DType::kF32));
        }
      });
    }
  }
};

inline constexpr ExchangeMode kBothExchanges[] = {ExchangeMode::kCounted, ExchangeMode::kPadded};

// By the size of the way back, exactly; with the same results on both sides of the limit.
TEST_P(DispatchInvariants, SmallExchangesArePadded) {
  ForEachCase(4, [](Communicator& comm, Device& device, const DispatchCase& drawn) {
    for (const CombineMode combine : {CombineMode::kExact, CombineMode::kSummed}) {
      auto options = OptionsFor(drawn, combine, ExchangeMode::kPaddedIfSmall);
      // Of capacity rows for each rank and back, with one result for each of a row's slots.
      const int64_t slots =
          combine == CombineMode::kExact ? std::min(drawn.top_k, drawn.shape.slots_per_rank) : 1;
      options.small_bytes = comm.size() * drawn.capacity * slots * drawn.hidden *
                            static_cast<int64_t>(SizeOf(drawn.dtype));
      TestExpertOps ops(&device);
      const auto dispatcher = ExpertDispatcher::Create(&ops, &comm, options);
      ASSERT_TRUE(dispatcher.ok()) << dispatcher.status();
      for (int64_t capacity = 1; capacity <= options.max_tokens; ++capacity) {
        EXPECT_EQ((*dispatcher)->Pads(capacity), capacity <= drawn.capacity) << capacity;
        EXPECT_EQ((*dispatcher)->WaitsForCounts(capacity), capacity > drawn.capacity) << capacity;
      }
      for (const int64_t less : {0, 1}) {
        options.small_bytes -= less;
        EXPECT_EQ(RunDispatch(comm, device, drawn, options),
                  combine == CombineMode::kExact ? LocalResult(drawn, comm.rank())
                                                 : SummedResult(drawn, comm.rank()));
      }
    }
  });
}

// Exact combine has the bits of the local path for every world, placement and exchange; ranks
// without tokens, hot experts, padding and poisoned buffers are among the cases.
TEST_P(DispatchInvariants, ExactCombineEqualsTheLocalPath) {
  ForEachCase(12, [](Communicator& comm, Device& device, const DispatchCase& drawn) {
    for (const ExchangeMode exchange : kBothExchanges) {
      const auto options = OptionsFor(drawn, CombineMode::kExact, exchange);
      EXPECT_EQ(RunDispatch(comm, device, drawn, options), LocalResult(drawn, comm.rank()));
    }
  });
}

TEST_P(DispatchInvariants, SummedCombineAddsRanksInOrder) {
  ForEachCase(12, [](Communicator& comm, Device& device, const DispatchCase& drawn) {
    for (const ExchangeMode exchange : kBothExchanges) {
      const auto options = OptionsFor(drawn, CombineMode::kSummed, exchange);
      EXPECT_EQ(RunDispatch(comm, device, drawn, options), SummedResult(drawn, comm.rank()));
    }
  });
}

TEST_P(DispatchInvariants, DelaysDoNotChangeTheBits) {
  ForEachCase(4, [](Communicator& comm, Device& device, const DispatchCase& drawn) {
    const auto exact = OptionsFor(drawn, CombineMode::kExact, ExchangeMode::kCounted);
    EXPECT_EQ(RunDispatch(comm, device, drawn, exact, {.delays = true}),
              LocalResult(drawn, comm.rank()));
    const auto summed = OptionsFor(drawn, CombineMode::kSummed, ExchangeMode::kPadded);
    EXPECT_EQ(RunDispatch(comm, device, drawn, summed, {.delays = true}),
              SummedResult(drawn, comm.rank()));
  });
}

// Integers through experts that return their input: nothing rounds, so nothing may be lost.
TEST_P(DispatchInvariants, IdentityExpertsRoundTrip) {
  ForEachCase(4, [](Communicator& comm, Device& device, const DispatchCase& drawn) {
    DispatchCase whole = drawn;
    const int rank = comm.rank();
    for (auto& weights : whole.weights) std::fill(weights.begin(), weights.end(), 1.0F);
    for (int r = 0; r < comm.size(); ++r) {
      whole.padding[r] = 0;
      for (size_t i = 0; i < whole.x[r].size(); ++i) {
        whole.x[r][i] = static_cast<float>((i * 7 + r) % 31) - 15.0F;
      }
    }
    TestExpertOps ops(&device);
    for (const CombineMode combine : {CombineMode::kExact, CombineMode::kSummed}) {
      auto options = OptionsFor(whole, combine, ExchangeMode::kCounted);
      auto dispatcher = ExpertDispatcher::Create(&ops, &comm, options);
      auto table =
          PlacementTable::Create(&device, *Placement::Create(whole.shape, whole.slot_experts));
      TestTensor<int32_t> ids(&device, DType::kI32, {whole.tokens[rank], whole.top_k},
                              whole.ids[rank]);
      TestTensor<float> weights(&device, DType::kF32, {whole.tokens[rank], whole.top_k},
                                whole.weights[rank]);
      RowTensor x(&device, whole.dtype, whole.tokens[rank], whole.hidden);
      RowTensor out(&device, whole.dtype, whole.tokens[rank], whole.hidden);
      x.Set(whole.x[rank]);
      DispatchedRows rows =
          (*dispatcher)
              ->Dispatch(x.view(),
                         {.ids = ids.view(), .weights = weights.view(), .placement = &*table});
      RowTensor y(&device, whole.dtype, rows.max_rows, whole.hidden);
      HostQueue* const queue = device.host_queue();
      queue->Run([queue, rows_x = rows.x, index = rows.row_index, num_rows = rows.num_rows,
                  target = y.view()]() -> absl::Status {
        const int64_t bytes = target.row_size() * static_cast<int64_t>(SizeOf(target.dtype()));
        const auto* from = static_cast<const char*>(queue->Access(rows_x.data()));
        auto* to = static_cast<char*>(queue->Access(target.data()));
        const auto* at = static_cast<const int32_t*>(queue->Access(index.data()));
        const auto* count = static_cast<const int32_t*>(queue->Access(num_rows.data()));
        for (int64_t r = 0; r < *count; ++r) {
          std::memcpy(to + r * bytes, from + at[r] * bytes, bytes);
        }
        return absl::OkStatus();
      });
      (*dispatcher)->Combine(std::move(rows.handle), y.view(), out.view());
      std::vector<float> expected(whole.x[rank].size());
      for (size_t i = 0; i < expected.size(); ++i) {
        const auto token = static_cast<int64_t>(i) / whole.hidden;
        const auto begin = whole.ids[rank].begin() + token * whole.top_k;
        expected[i] =
            whole.x[rank][i] * static_cast<float>(std::count_if(
                                   begin, begin + whole.top_k, [](int32_t id) { return id >= 0; }));
      }
      EXPECT_EQ(out.Get(), expected);
    }
  });
}

// A placement flipped between steps changes where rows go, not what comes out.
TEST_P(DispatchInvariants, PlacementsFlipBetweenSteps) {
  ForEachCase(3, [](Communicator& comm, Device& device, const DispatchCase& drawn) {
    const int rank = comm.rank();
    const int64_t tokens = drawn.tokens[rank];
    auto options = OptionsFor(drawn, CombineMode::kExact, ExchangeMode::kCounted);
    TestExpertOps ops(&device);
    auto dispatcher = ExpertDispatcher::Create(&ops, &comm, options);
    auto table =
        PlacementTable::Create(&device, *Placement::Create(drawn.shape, drawn.slot_experts));
    TestTensor<int32_t> ids(&device, DType::kI32, {tokens, drawn.top_k}, drawn.ids[rank]);
    TestTensor<float> weights(&device, DType::kF32, {tokens, drawn.top_k}, drawn.weights[rank]);
    RowTensor x(&device, drawn.dtype, tokens, drawn.hidden);
    RowTensor out(&device, drawn.dtype, tokens, drawn.hidden);
    x.Set(drawn.x[rank]);
    TestRandom random(drawn.seed);
    DispatchCase moved = drawn;
    for (int step = 0; step < 3; ++step) {
      DispatchedRows rows =
          (*dispatcher)
              ->Dispatch(x.view(),
                         {.ids = ids.view(), .weights = weights.view(), .placement = &*table});
      RowTensor y(&device, drawn.dtype, rows.max_rows, drawn.hidden);
      EnqueueExperts(device, moved, rank, rows, y.view());
      (*dispatcher)->Combine(std::move(rows.handle), y.view(), out.view());
      EXPECT_EQ(out.Get(), LocalResult(drawn, rank));
      moved.slot_experts = RandomPlacement(moved.shape, random);
      EXPECT_TRUE(table->Stage(*Placement::Create(moved.shape, moved.slot_experts)).ok());
      EXPECT_TRUE(table->Flip().ok());
      EXPECT_EQ(table->version(), step + 1);
    }
  });
}

// One rank's router is broken: that rank reports it, and nobody hangs or crashes.
TEST_P(DispatchInvariants, UnknownExpertIsAnError) {
  GetParam().run(2, absl::Seconds(2), [](Communicator& comm, Device& device) {
    comm.Barrier();  // both are connected before one leaves
    DispatcherOptions options{.max_tokens = 4,
                              .hidden = 8,
                              .top_k = 2,
                              .placement = {.num_experts = 4, .num_ranks = 2, .slots_per_rank = 2}};
    TestExpertOps ops(&device);
    auto dispatcher = ExpertDispatcher::Create(&ops, &comm, options);
    auto table = PlacementTable::Create(&device, *Placement::Even(options.placement));
    TestTensor<int32_t> ids(&device, DType::kI32, {1, 2}, {comm.rank() == 1 ? 4 : 0, 1});
    TestTensor<float> weights(&device, DType::kF32, {1, 2}, {1.0F, 1.0F});
    TestTensor<float> x(&device, DType::kF32, {1, 8});
    (*dispatcher)
        ->Dispatch(x.view(), {.ids = ids.view(), .weights = weights.view(), .placement = &*table});
    const absl::Status status = device.Synchronize();
    EXPECT_EQ(status.code(),
              comm.rank() == 1 ? absl::StatusCode::kInternal : absl::StatusCode::kUnavailable)
        << status;
  });
}

}  // namespace tessera

#endif  // TESSERA_TESTS_PARALLEL_EXPERTS_DISPATCH_INVARIANTS_H_
