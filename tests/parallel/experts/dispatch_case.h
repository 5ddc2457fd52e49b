// Random expert-parallel steps, what they must give, and how to run them.
#ifndef TESSERA_TESTS_PARALLEL_EXPERTS_DISPATCH_CASE_H_
#define TESSERA_TESTS_PARALLEL_EXPERTS_DISPATCH_CASE_H_

#include <algorithm>
#include <bit>
#include <chrono>
#include <cmath>
#include <cstring>
#include <limits>
#include <map>
#include <memory>
#include <numeric>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "parallel/experts/dispatcher.h"
#include "parallel/experts/placement.h"
#include "tests/parallel/experts/test_expert_ops.h"
#include "tests/parallel/test_device.h"
#include "tests/parallel/test_random.h"
#include "tests/parallel/transport.h"

namespace tessera {

// One expert-parallel step of a whole group, drawn from a seed: every rank can compute all of it.
struct DispatchCase {
  uint32_t seed = 0;
  PlacementShape shape;
  int32_t top_k = 1;
  int64_t hidden = 1;
  DType dtype = DType::kF32;
  int64_t capacity = 1;
  std::vector<int32_t> slot_experts;
  std::vector<int64_t> tokens;   // per rank, with padding
  std::vector<int64_t> padding;  // per rank: rows at the end that are not real, without experts
  std::vector<std::vector<int32_t>> ids;
  std::vector<std::vector<float>> weights;
  std::vector<std::vector<float>> x;  // values of `dtype`
};

inline float RoundTo(DType dtype, float value) {
  return dtype == DType::kBF16 ? BF16ToFloat(FloatToBF16(value)) : value;
}

// Every expert somewhere; then further replicas and spare slots at random.
inline std::vector<int32_t> RandomPlacement(const PlacementShape& shape, TestRandom& random) {
  std::vector<int32_t> slots(shape.num_slots(), Placement::kSpare);
  for (int32_t e = 0; e < shape.num_experts; ++e) {
    int32_t slot = random.Below(shape.num_slots());
    while (slots[slot] != Placement::kSpare) slot = (slot + 1) % shape.num_slots();
    slots[slot] = e;
  }
  for (int32_t slot = 0; slot < shape.num_slots(); ++slot) {
    if (slots[slot] != Placement::kSpare || random.Below(4) == 0) continue;
    const int32_t expert = random.Below(shape.num_experts);
    const auto begin = slots.begin() + slot / shape.slots_per_rank * shape.slots_per_rank;
    if (std::find(begin, begin + shape.slots_per_rank, expert) == begin + shape.slots_per_rank) {
      slots[slot] = expert;
    }
  }
  return slots;
}

// k distinct experts; with `hot`, expert 0 is always among them.
inline std::vector<int32_t> RandomChoice(int32_t experts, int32_t k, bool hot, TestRandom& random) {
  std::vector<int32_t> all(experts);
  std::iota(all.begin(), all.end(), 0);
  for (int32_t j = 0; j < k; ++j) std::swap(all[j], all[j + random.Below(experts - j)]);
  all.resize(k);
  if (hot && std::find(all.begin(), all.end(), 0) == all.end()) all[random.Below(k)] = 0;
  return all;
}

inline DispatchCase DrawCase(uint32_t seed, int ranks, DType dtype, int32_t most_tokens = 24) {
  TestRandom random(seed);
  DispatchCase drawn{.seed = seed, .dtype = dtype};
  const int32_t per_rank = 1 + random.Below(4);
  drawn.shape = {.num_experts = per_rank * ranks,
                 .num_ranks = ranks,
                 .slots_per_rank = per_rank + random.Below(3)};
  drawn.top_k = 1 + random.Below(std::min(8, drawn.shape.num_experts));
  drawn.hidden = 1 + random.Below(48);
  drawn.capacity = 1 + random.Below(most_tokens);
  drawn.slot_experts = RandomPlacement(drawn.shape, random);
  const bool hot = random.Below(3) == 0;
  for (int r = 0; r < ranks; ++r) {
    const int64_t tokens = random.Below(4) == 0 ? 0 : random.Below(drawn.capacity + 1);
    drawn.tokens.push_back(tokens);
    drawn.padding.push_back(tokens > 0 && random.Below(2) == 0 ? random.Below(tokens) : 0);
    std::vector<int32_t>& ids = drawn.ids.emplace_back();
    std::vector<float>& weights = drawn.weights.emplace_back();
    std::vector<float>& x = drawn.x.emplace_back();
    for (int64_t t = 0; t < tokens; ++t) {
      const bool poison = t >= tokens - drawn.padding.back();
      for (int32_t id : RandomChoice(drawn.shape.num_experts, drawn.top_k, hot, random)) {
        ids.push_back(poison || random.Below(12) == 0 ? -1 : id);
        weights.push_back(static_cast<float>(1 + random.Below(1000)) / 1000.0F);
      }
      for (int64_t i = 0; i < drawn.hidden; ++i) {
        const float value = static_cast<float>(random.Below(20001) - 10000) / 1237.0F;
        x.push_back(poison ? std::numeric_limits<float>::quiet_NaN() : RoundTo(dtype, value));
      }
    }
  }
  return drawn;
}

// A function of the row alone that differs between experts.
inline std::vector<float> RunExpert(int32_t expert, const float* row, int64_t hidden, DType dtype) {
  std::vector<float> y(hidden);
  const float a = 0.25F + static_cast<float>(expert % 7);
  const float b = 0.125F * static_cast<float>(1 + expert % 5);
  for (int64_t i = 0; i < hidden; ++i) {
    y[i] = RoundTo(dtype, row[i] * a + row[(i + 1) % hidden] * b);
  }
  return y;
}

// The definition of a MoE layer on one rank, without any communication.
inline std::vector<float> LocalResult(const DispatchCase& drawn, int rank) {
  std::vector<float> out(drawn.tokens[rank] * drawn.hidden, 0.0F);
  for (int64_t t = 0; t < drawn.tokens[rank] - drawn.padding[rank]; ++t) {
    std::vector<float> sum(drawn.hidden, 0.0F);
    for (int32_t j = 0; j < drawn.top_k; ++j) {
      const int32_t id = drawn.ids[rank][t * drawn.top_k + j];
      if (id < 0) continue;
      const std::vector<float> y =
          RunExpert(id, &drawn.x[rank][t * drawn.hidden], drawn.hidden, drawn.dtype);
      const float weight = drawn.weights[rank][t * drawn.top_k + j];
      for (int64_t i = 0; i < drawn.hidden; ++i) sum[i] += weight * y[i];
    }
    for (int64_t i = 0; i < drawn.hidden; ++i) {
      out[t * drawn.hidden + i] = RoundTo(drawn.dtype, sum[i]);
    }
  }
  return out;
}

// The same with a partial sum per destination rank, rounded on the way back.
inline std::vector<float> SummedResult(const DispatchCase& drawn, int rank) {
  const auto placement = Placement::Create(drawn.shape, drawn.slot_experts);
  std::vector<float> out(drawn.tokens[rank] * drawn.hidden, 0.0F);
  for (int64_t t = 0; t < drawn.tokens[rank] - drawn.padding[rank]; ++t) {
    std::map<int32_t, std::vector<float>> per_rank;
    for (int32_t j = 0; j < drawn.top_k; ++j) {
      const int32_t id = drawn.ids[rank][t * drawn.top_k + j];
      if (id < 0) continue;
      const int32_t to = placement->RankOf(ChooseSlot(placement->view(), id, rank, t));
      std::vector<float>& sum = per_rank.try_emplace(to, drawn.hidden, 0.0F).first->second;
      const std::vector<float> y =
          RunExpert(id, &drawn.x[rank][t * drawn.hidden], drawn.hidden, drawn.dtype);
      const float weight = drawn.weights[rank][t * drawn.top_k + j];
      for (int64_t i = 0; i < drawn.hidden; ++i) sum[i] += weight * y[i];
    }
    for (int64_t i = 0; i < drawn.hidden; ++i) {
      float sum = 0;
      for (const auto& [to, partial] : per_rank) sum += RoundTo(drawn.dtype, partial[i]);
      out[t * drawn.hidden + i] = RoundTo(drawn.dtype, sum);
    }
  }
  return out;
}

// Rows of either type on a device, as floats on the host.
class RowTensor {
 public:
  RowTensor(Device* device, DType dtype, int64_t rows, int64_t hidden)
      : device_(device), dtype_(dtype) {
    auto buffer = device->Allocate(rows * hidden * SizeOf(dtype), "test rows");
    TESSERA_CHECK(buffer.ok());
    buffer_ = *std::move(buffer);
    view_ = buffer_.View(dtype, {rows, hidden});
  }
  TensorView view() const { return view_; }
  void Set(const std::vector<float>& values) {
    if (dtype_ == DType::kF32) {
      device_->Upload(view_.data(), values.data(), values.size() * sizeof(float));
      return;
    }
    std::vector<uint16_t> bits(values.size());
    std::transform(values.begin(), values.end(), bits.begin(), FloatToBF16);
    device_->Upload(view_.data(), bits.data(), bits.size() * sizeof(uint16_t));
  }
  void Fill(float value) { Set(std::vector<float>(view_.num_elements(), value)); }
  std::vector<float> Get() const {
    std::vector<float> values(view_.num_elements());
    std::vector<uint16_t> bits(values.size());
    if (dtype_ == DType::kF32) {
      device_->Download(values.data(), view_.data(), values.size() * sizeof(float));
    } else {
      device_->Download(bits.data(), view_.data(), bits.size() * sizeof(uint16_t));
    }
    EXPECT_TRUE(device_->Synchronize().ok()) << device_->Synchronize();
    if (dtype_ == DType::kBF16) {
      std::transform(bits.begin(), bits.end(), values.begin(), BF16ToFloat);
    }
    return values;
  }

 private:
  Device* device_;
  DType dtype_;
  DeviceBuffer buffer_;
  TensorView view_;
};

// What the model does between Dispatch and Combine: y[r] = expert(x[row_index[r]]), other rows of y
// stay as they are.
inline void EnqueueExperts(Device& device, const DispatchCase& drawn, int rank,
                           const DispatchedRows& rows, TensorView y) {
  HostQueue* const queue = device.host_queue();
  queue->Run([queue, &drawn, rank, x = rows.x, row_index = rows.row_index,
              offsets_view = rows.offsets, num_rows = rows.num_rows, y]() -> absl::Status {
    const auto ints = [queue](const ConstTensorView& view) {
      return static_cast<const int32_t*>(queue->Access(view.data()));
    };
    const auto* offsets = ints(offsets_view);
    EXPECT_EQ(offsets[0], 0);
    EXPECT_EQ(offsets[drawn.shape.slots_per_rank], *ints(num_rows));
    const auto* in = static_cast<const char*>(queue->Access(x.data()));
    auto* out = static_cast<char*>(queue->Access(y.data()));
    std::vector<float> row(drawn.hidden);
    for (int32_t s = 0; s < drawn.shape.slots_per_rank; ++s) {
      EXPECT_LE(offsets[s], offsets[s + 1]);
      const int32_t expert = drawn.slot_experts[rank * drawn.shape.slots_per_rank + s];
      for (int64_t r = offsets[s]; r < offsets[s + 1]; ++r) {
        const int64_t from = ints(row_index)[r] * drawn.hidden;
        for (int64_t i = 0; i < drawn.hidden; ++i) {
          row[i] = drawn.dtype == DType::kF32
                       ? reinterpret_cast<const float*>(in)[from + i]
                       : BF16ToFloat(reinterpret_cast<const uint16_t*>(in)[from + i]);
        }
        const std::vector<float> result = RunExpert(expert, row.data(), drawn.hidden, drawn.dtype);
        for (int64_t i = 0; i < drawn.hidden; ++i) {
          if (drawn.dtype == DType::kF32) {
            reinterpret_cast<float*>(out)[r * drawn.hidden + i] = result[i];
          } else {
            reinterpret_cast<uint16_t*>(out)[r * drawn.hidden + i] = FloatToBF16(result[i]);
          }
        }
      }
    }
    return absl::OkStatus();
  });
}

inline DispatcherOptions OptionsFor(const DispatchCase& drawn, CombineMode combine,
                                    ExchangeMode exchange) {
  return {.max_tokens = 24,
          .hidden = drawn.hidden,
          .dtype = drawn.dtype,
          .top_k = drawn.top_k,
          .placement = drawn.shape,
          .combine = combine,
          .exchange = exchange};
}

struct RunOptions {
  bool delays = false;
  // Steps before the last one see NaN everywhere; what they leave behind in the buffers must not
  // show in the last.
  int poisoned_steps = 1;
};

// Steps through one dispatcher; returns the rows of the last.
inline std::vector<float> RunDispatch(Communicator& comm, Device& device, const DispatchCase& drawn,
                                      const DispatcherOptions& options,
                                      const RunOptions& run = {}) {
  const int rank = comm.rank();
  const int64_t tokens = drawn.tokens[rank];
  TestExpertOps ops(&device);
  auto dispatcher = ExpertDispatcher::Create(&ops, &comm, options);
  auto placement = Placement::Create(drawn.shape, drawn.slot_experts);
  EXPECT_TRUE(dispatcher.ok() && placement.ok()) << dispatcher.status() << placement.status();
  auto table = PlacementTable::Create(&device, *placement);
  EXPECT_TRUE(table.ok());
  TestTensor<int32_t> ids(&device, DType::kI32, {tokens, drawn.top_k}, drawn.ids[rank]);
  TestTensor<float> weights(&device, DType::kF32, {tokens, drawn.top_k}, drawn.weights[rank]);
  RowTensor x(&device, drawn.dtype, tokens, drawn.hidden);
  RowTensor out(&device, drawn.dtype, tokens, drawn.hidden);
  const float nan = std::numeric_limits<float>::quiet_NaN();
  for (int step = 0; step <= run.poisoned_steps; ++step) {
    x.Fill(nan);
    if (step == run.poisoned_steps) x.Set(drawn.x[rank]);
    DispatchedRows rows = (*dispatcher)
                              ->Dispatch(x.view(), {.ids = ids.view(),
                                                    .weights = weights.view(),
                                                    .placement = &*table,
                                                    .capacity = drawn.capacity});
    RowTensor y(&device, drawn.dtype, rows.max_rows, drawn.hidden);
    if (run.poisoned_steps > 0) y.Fill(nan);
    if (run.delays) {
      device.host_queue()->Run([pause = TestRandom(drawn.seed + rank + step * 99)()] {
        std::this_thread::sleep_for(std::chrono::microseconds(pause % 1500));
        return absl::OkStatus();
      });
    }
    EnqueueExperts(device, drawn, rank, rows, y.view());
    (*dispatcher)->Combine(std::move(rows.handle), y.view(), out.view());
    EXPECT_TRUE(device.Synchronize().ok()) << device.Synchronize();
  }
  return out.Get();
}

}  // namespace tessera

#endif  // TESSERA_TESTS_PARALLEL_EXPERTS_DISPATCH_CASE_H_
