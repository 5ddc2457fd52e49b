// What every transport must do. Include in one file of a test binary and instantiate the suite
// with the transports to test.
#ifndef TESSERA_TESTS_PARALLEL_COMMUNICATOR_CONFORMANCE_H_
#define TESSERA_TESTS_PARALLEL_COMMUNICATOR_CONFORMANCE_H_

#include <bit>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <functional>
#include <limits>
#include <string>
#include <thread>
#include <vector>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/core/dtype.h"
#include "parallel/communicator.h"
#include "tests/parallel/test_device.h"
#include "tests/parallel/test_random.h"
#include "tests/parallel/transport.h"

namespace tessera {

class CommunicatorConformance : public testing::TestWithParam<Transport> {
 protected:
  static constexpr uint32_t kSeed = 20240917;

  void ForEachWorld(const RankBody& body) {
    for (int size : GetParam().sizes) {
      SCOPED_TRACE(testing::Message() << GetParam().name << ", " << size << " ranks");
      GetParam().run(size, absl::Seconds(60), body);
    }
  }
};

// Ranks that get on while another one blocks its thread: not on transports where they share it.
class CommunicatorTimeouts : public CommunicatorConformance {};

// Values whose sums round: the order of the additions shows in the bits.
template <typename T>
std::vector<T> RandomValues(int64_t count, uint32_t seed) {
  TestRandom random(seed);
  std::vector<T> values(count);
  for (T& value : values) {
    const uint32_t bits = random();
    // Sign and mantissa at random, exponent of 2^-12 .. 2^11.
    const float x = std::bit_cast<float>((bits & 0x807fffffU) | ((115 + (bits >> 23) % 24) << 23));
    if constexpr (sizeof(T) == 2) {
      value = FloatToBF16(x);
    } else {
      value = static_cast<T>(x);
    }
  }
  return values;
}

template <typename T>
float AsFloat(T value) {
  if constexpr (sizeof(T) == 2) return BF16ToFloat(value);
  return static_cast<float>(value);
}

// The definition of a sum over ranks, one element at a time.
template <typename T>
std::vector<T> ExpectedSum(const std::vector<std::vector<T>>& inputs) {
  std::vector<T> sums(inputs[0].size());
  for (size_t i = 0; i < sums.size(); ++i) {
    float sum = AsFloat(inputs[0][i]);
    for (size_t r = 1; r < inputs.size(); ++r) sum += AsFloat(inputs[r][i]);
    if constexpr (sizeof(T) == 2) {
      sums[i] = FloatToBF16(sum);
    } else {
      sums[i] = sum;
    }
  }
  return sums;
}

template <typename T>
std::vector<std::vector<T>> InputsOfRanks(int size, int64_t count, uint32_t seed) {
  std::vector<std::vector<T>> inputs;
  for (int r = 0; r < size; ++r) inputs.push_back(RandomValues<T>(count, seed + 1000 * r));
  return inputs;
}

template <typename T>
bool SameBits(const std::vector<T>& a, const std::vector<T>& b) {
  return a.size() == b.size() &&
         (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0);
}

template <typename T>
void CheckAllReduce(Communicator& comm, Device& device, DType dtype, int64_t count, uint32_t seed) {
  const auto inputs = InputsOfRanks<T>(comm.size(), count, seed);
  TestTensor<T> data(&device, dtype, {count}, inputs[comm.rank()]);
  comm.AllReduce(data.view());
  EXPECT_TRUE(SameBits(data.Get(), ExpectedSum(inputs))) << count << " of " << DTypeName(dtype);
}

template <typename T>
void CheckReduceScatter(Communicator& comm, Device& device, DType dtype, int64_t count,
                        uint32_t seed) {
  const auto inputs = InputsOfRanks<T>(comm.size(), count * comm.size(), seed);
  TestTensor<T> in(&device, dtype, {comm.size(), count}, inputs[comm.rank()]);
  TestTensor<T> out(&device, dtype, {1, count});
  comm.ReduceScatter(in.view(), out.view());
  const std::vector<T> sums = ExpectedSum(inputs);
  const auto begin = sums.begin() + comm.rank() * count;
  EXPECT_TRUE(SameBits(out.Get(), std::vector<T>(begin, begin + count)))
      << count << " of " << DTypeName(dtype);
}

inline void CheckAllGather(Communicator& comm, Device& device, int64_t count, uint32_t seed) {
  const auto inputs = InputsOfRanks<float>(comm.size(), count, seed);
  TestTensor<float> in(&device, DType::kF32, {count}, inputs[comm.rank()]);
  TestTensor<float> out(&device, DType::kF32, {comm.size() * count});
  comm.AllGather(in.view(), out.view());
  std::vector<float> expected;
  for (const auto& input : inputs) expected.insert(expected.end(), input.begin(), input.end());
  EXPECT_TRUE(SameBits(out.Get(), expected)) << count;
}

// The value of element i of row `row` that rank `from` sends to rank `to`.
inline int32_t RowValue(int from, int to, int64_t row, int64_t i) {
  return static_cast<int32_t>(((from * 64 + to) * 4096 + row) * 16 + i % 16);
}

// Two arrays in one operation, the second one in place.
inline void CheckAllGatherOfParts(Communicator& comm, Device& device, int64_t count,
                                  uint32_t seed) {
  const int64_t size = comm.size();
  const int64_t me = comm.rank();
  const auto floats = InputsOfRanks<float>(comm.size(), count, seed);
  std::vector<float> all_floats;
  std::vector<int32_t> mine(2 * size, -1);
  std::vector<int32_t> all_ints;
  for (int64_t r = 0; r < size; ++r) {
    all_floats.insert(all_floats.end(), floats[r].begin(), floats[r].end());
    for (int32_t i = 0; i < 2; ++i) {
      all_ints.push_back(RowValue(static_cast<int>(r), i, count, seed % 16));
      if (r == me) mine[2 * r + i] = all_ints.back();
    }
  }
  TestTensor<float> in(&device, DType::kF32, {count}, floats[me]);
  TestTensor<float> out(&device, DType::kF32, {size * count});
  TestTensor<int32_t> in_place(&device, DType::kI32, {size, 2}, mine);
  const AllGatherPart parts[] = {{in.view(), out.view()},
                                 {in_place.view().Rows(me, 1), in_place.view()}};
  comm.AllGather(parts);
  EXPECT_TRUE(SameBits(out.Get(), all_floats)) << count;
  EXPECT_EQ(in_place.Get(), all_ints);
}

inline void CheckGather(Communicator& comm, Device& device, int64_t count, uint32_t seed) {
  const auto inputs = InputsOfRanks<float>(comm.size(), count, seed);
  const int root = static_cast<int>(seed % comm.size());
  TestTensor<float> in(&device, DType::kF32, {count}, inputs[comm.rank()]);
  TestTensor<float> out(&device, DType::kF32, {comm.size() * count});
  std::vector<float> expected = out.Get();  // as it was on all ranks but the root
  comm.Gather(in.view(), out.view(), root);
  if (comm.rank() == root) {
    expected.clear();
    for (const auto& input : inputs) expected.insert(expected.end(), input.begin(), input.end());
  }
  EXPECT_TRUE(SameBits(out.Get(), expected)) << count << " to " << root;
}

inline void CheckBroadcast(Communicator& comm, Device& device, int64_t count, uint32_t seed) {
  const auto inputs = InputsOfRanks<float>(comm.size(), count, seed);
  const int root = static_cast<int>(seed % comm.size());
  TestTensor<float> data(&device, DType::kF32, {count}, inputs[comm.rank()]);
  comm.Broadcast(data.view(), root);
  EXPECT_TRUE(SameBits(data.Get(), inputs[root])) << count << " from " << root;
}

struct ExchangeCase {
  int64_t capacity = 0;
  int64_t width = 0;
  uint32_t seed = 0;
  bool counted = false;  // AllToAllV
  bool shared = false;   // into memory that ranks share, if they can
};

// Tensors in memory that all ranks share, at the same offsets; or in any.
class Targets {
 public:
  Targets(Communicator& comm, Device& device, bool shared) : device_(device) {
    if (!shared) return;
    const absl::StatusOr<void*> memory = comm.ShareMemory(kBytes);
    EXPECT_TRUE(memory.ok()) << memory.status();
    if (memory.ok()) next_ = static_cast<char*>(*memory);
  }
  template <typename T>
  TestTensor<T> Make(DType dtype, std::initializer_list<int64_t> dims,
                     const std::vector<T>& values) {
    if (next_ == nullptr) return TestTensor<T>(&device_, dtype, dims, values);
    const TensorView view(next_, dtype, dims);
    next_ += (view.num_bytes() + 3) / 4 * 4;
    return TestTensor<T>(&device_, view, values);
  }

 private:
  static constexpr int64_t kBytes = 256 << 10;
  Device& device_;
  char* next_ = nullptr;
};

inline int32_t CountOf(const ExchangeCase& exchange, int from, int to) {
  if (!exchange.counted) return static_cast<int32_t>(exchange.capacity);
  TestRandom random(exchange.seed + 64 * from + to);
  if (random() % 3 == 0) return 0;
  return static_cast<int32_t>(random() % (exchange.capacity + 1));
}

// Two parts at once: int rows of `width` and single bytes.
inline void CheckExchange(Communicator& comm, Device& device, const ExchangeCase& exchange) {
  const int size = comm.size();
  const int me = comm.rank();
  const int64_t rows = size * exchange.capacity;
  constexpr int32_t kUntouched = -77;
  std::vector<int32_t> in(rows * exchange.width);
  std::vector<int32_t> expected(in.size(), kUntouched);
  std::vector<uint8_t> bytes(rows);
  std::vector<uint8_t> expected_bytes(rows, 255);
  std::vector<int32_t> send_counts(size);
  std::vector<int32_t> recv_counts(size);
  for (int peer = 0; peer < size; ++peer) {
    send_counts[peer] = CountOf(exchange, me, peer);
    recv_counts[peer] = CountOf(exchange, peer, me);
    for (int64_t row = 0; row < exchange.capacity; ++row) {
      const int64_t at = peer * exchange.capacity + row;
      bytes[at] = static_cast<uint8_t>(RowValue(me, peer, row, 0) / 16 % 251);
      if (row < recv_counts[peer]) {
        expected_bytes[at] = static_cast<uint8_t>(RowValue(peer, me, row, 0) / 16 % 251);
      }
      for (int64_t i = 0; i < exchange.width; ++i) {
        in[at * exchange.width + i] = RowValue(me, peer, row, i);
        if (row < recv_counts[peer]) {
          expected[at * exchange.width + i] = RowValue(peer, me, row, i);
        }
      }
    }
  }
  TestTensor<int32_t> source(&device, DType::kI32, {rows, exchange.width}, in);
  Targets targets(comm, device, exchange.shared);
  const auto target = targets.Make<int32_t>(DType::kI32, {rows, exchange.width},
                                            std::vector<int32_t>(in.size(), kUntouched));
  TestTensor<uint8_t> byte_source(&device, DType::kU8, {rows}, bytes);
  const auto byte_target =
      targets.Make<uint8_t>(DType::kU8, {rows}, std::vector<uint8_t>(rows, 255));
  TestTensor<int32_t> sent(&device, DType::kI32, {size}, send_counts);
  const auto received =
      targets.Make<int32_t>(DType::kI32, {size}, std::vector<int32_t>(size, kUntouched));
  const AllToAllPart parts[] = {{source.view(), target.view()},
                                {byte_source.view(), byte_target.view()}};
  if (exchange.counted) {
    comm.AllToAllV(parts, sent.view(), received.view());
    EXPECT_EQ(received.Get(), recv_counts);
  } else {
    comm.AllToAll(parts);
  }
  EXPECT_TRUE(SameBits(target.Get(), expected)) << exchange.capacity << " x " << exchange.width;
  EXPECT_TRUE(SameBits(byte_target.Get(), expected_bytes));
}

TEST_P(CommunicatorConformance, AllReduceAddsInRankOrder) {
  ForEachWorld([](Communicator& comm, Device& device) {
    for (int64_t count : {0, 1, 3, 64, 1000, 9001, 40001}) {
      CheckAllReduce<float>(comm, device, DType::kF32, count, kSeed);
      CheckAllReduce<uint16_t>(comm, device, DType::kBF16, count, kSeed);
    }
  });
}

TEST_P(CommunicatorConformance, ReduceScatterAddsInRankOrder) {
  ForEachWorld([](Communicator& comm, Device& device) {
    for (int64_t count : {1, 100, 5011}) {
      CheckReduceScatter<float>(comm, device, DType::kF32, count, kSeed);
      CheckReduceScatter<uint16_t>(comm, device, DType::kBF16, count, kSeed);
    }
  });
}

TEST_P(CommunicatorConformance, GathersAndBroadcastMoveEveryByte) {
  ForEachWorld([](Communicator& comm, Device& device) {
    for (int64_t count : {1, 33, 8192, 10000}) {
      CheckAllGather(comm, device, count, kSeed);
      CheckAllGatherOfParts(comm, device, count, kSeed);
      for (int root = 0; root < comm.size(); ++root) {
        CheckGather(comm, device, count, root);
        CheckBroadcast(comm, device, count, root);
      }
    }
  });
}

TEST_P(CommunicatorConformance, AllToAllMovesWholeChunksOfEveryPart) {
  ForEachWorld([](Communicator& comm, Device& device) {
    CheckExchange(comm, device, {.capacity = 1, .width = 1});
    CheckExchange(comm, device, {.capacity = 5, .width = 17});
    CheckExchange(comm, device, {.capacity = 300, .width = 64});
  });
}

TEST_P(CommunicatorConformance, ExchangesIntoSharedMemory) {
  ForEachWorld([](Communicator& comm, Device& device) {
    CheckExchange(comm, device, {.capacity = 1, .width = 1, .shared = true});
    CheckExchange(comm, device, {.capacity = 90, .width = 12, .shared = true});
    CheckExchange(comm, device,
                  {.capacity = 1, .width = 3, .seed = 1, .counted = true, .shared = true});
    CheckExchange(comm, device,
                  {.capacity = 150, .width = 17, .seed = 2, .counted = true, .shared = true});
  });
}

// What an exchange brings may be read, and sent on, while peers already begin the next one.
TEST_P(CommunicatorConformance, ExchangesFollowEachOtherInSharedMemory) {
  ForEachWorld([](Communicator& comm, Device& device) {
    const int size = comm.size();
    Targets targets(comm, device, true);
    std::vector<int32_t> values(size * 8);
    for (int i = 0; i < size * 8; ++i) values[i] = comm.rank() * 1000 + i;
    const auto there = targets.Make<int32_t>(DType::kI32, {size, 8}, values);
    const auto back = targets.Make<int32_t>(DType::kI32, {size, 8}, values);
    const auto counts = targets.Make<int32_t>(DType::kI32, {size}, std::vector<int32_t>(size, 1));
    TestTensor<int32_t> ones(&device, DType::kI32, {size}, std::vector<int32_t>(size, 1));
    for (int i = 0; i < 2; ++i) {
      const AllToAllPart go{back.view(), there.view()};
      const AllToAllPart come{there.view(), back.view()};
      comm.AllToAllV({&go, 1}, ones.view(), counts.view());
      comm.AllToAll({&come, 1});
    }
    EXPECT_EQ(back.Get(), values);
  });
}

TEST_P(CommunicatorConformance, AllToAllVMovesCountedRowsOnly) {
  ForEachWorld([](Communicator& comm, Device& device) {
    for (uint32_t seed = 0; seed < 5; ++seed) {
      CheckExchange(comm, device, {.capacity = 1, .width = 3, .seed = seed, .counted = true});
      CheckExchange(comm, device, {.capacity = 40, .width = 33, .seed = seed, .counted = true});
    }
    CheckExchange(comm, device, {.capacity = 700, .width = 64, .seed = 9, .counted = true});
  });
}

// Any interleaving of operations gives the same bits, however late a rank is.
TEST_P(CommunicatorConformance, RandomOperationsUnderRandomDelays) {
  ForEachWorld([](Communicator& comm, Device& device) {
    TestRandom common(kSeed);
    TestRandom own(kSeed + 1 + comm.rank());
    for (int step = 0; step < 60; ++step) {
      if (own() % 4 == 0) std::this_thread::sleep_for(std::chrono::microseconds(own() % 400));
      const uint32_t seed = common();
      const int64_t count = common() % 3 == 0 ? common() % 12000 : common() % 300;
      switch (common() % 8) {
        case 0:
          CheckAllReduce<float>(comm, device, DType::kF32, count, seed);
          break;
        case 1:
          CheckAllReduce<uint16_t>(comm, device, DType::kBF16, count, seed);
          break;
        case 2:
          CheckReduceScatter<float>(comm, device, DType::kF32, count, seed);
          break;
        case 3:
          CheckAllGather(comm, device, count, seed);
          CheckAllGatherOfParts(comm, device, count, seed);
          break;
        case 4:
          CheckBroadcast(comm, device, count, seed);
          break;
        case 5:
          CheckExchange(
              comm, device,
              {.capacity = count % 97, .width = 9, .seed = seed, .counted = seed % 2 == 0});
          break;
        case 6:
          CheckGather(comm, device, count, seed);
          break;
        default:
          comm.Barrier();
      }
    }
    EXPECT_TRUE(device.Synchronize().ok()) << device.Synchronize();
  });
}

// Many operations of one queue, none waited for: they run in order.
TEST_P(CommunicatorConformance, OperationsRunInQueueOrder) {
  ForEachWorld([](Communicator& comm, Device& device) {
    TestTensor<float> data(&device, DType::kF32, {64}, std::vector<float>(64, 1.0F));
    TestTensor<float> all(&device, DType::kF32, {64 * comm.size()});
    float expected = 1.0F;
    for (int i = 0; i < 6; ++i) {
      comm.AllReduce(data.view());
      comm.AllGather(data.view(), all.view());
      expected *= static_cast<float>(comm.size());
    }
    EXPECT_EQ(all.Get(), std::vector<float>(64 * comm.size(), expected));
  });
}

TEST_P(CommunicatorTimeouts, MissingRankIsNamedAfterTheTimeout) {
  for (int size : {2, 3}) {
    GetParam().run(size, absl::Milliseconds(300), [](Communicator& comm, Device& device) {
      const absl::Time start = absl::Now();
      if (comm.rank() == 1) {
        absl::SleepFor(absl::Milliseconds(700));
        return;
      }
      TestTensor<float> data(&device, DType::kF32, {16});
      comm.AllReduce(data.view());
      const absl::Status status = device.Synchronize();
      EXPECT_TRUE(status.code() == absl::StatusCode::kDeadlineExceeded ||
                  status.code() == absl::StatusCode::kUnavailable)
          << status;
      EXPECT_THAT(std::string(status.message()), testing::HasSubstr("rank 1"));
      EXPECT_GE(absl::Now() - start, absl::Milliseconds(250));
      EXPECT_LE(absl::Now() - start, absl::Seconds(20));
      EXPECT_EQ(comm.Health(), status);
      comm.Barrier();  // fails at once: the failure is sticky
      EXPECT_EQ(device.Synchronize(), status);
      absl::SleepFor(
          absl::Seconds(1));  // keeps its own end open until all have seen rank 1 missing
    });
  }
}

TEST_P(CommunicatorConformance, RankThatLeavesIsNamedAtOnce) {
  for (int size : {2, 3}) {
    GetParam().run(size, absl::Seconds(60), [](Communicator& comm, Device& device) {
      TestTensor<float> data(&device, DType::kF32, {16});
      comm.AllReduce(data.view());
      EXPECT_TRUE(device.Synchronize().ok()) << device.Synchronize();
      if (comm.rank() == 1) return;  // the runner destroys its end
      const absl::Time start = absl::Now();
      comm.AllReduce(data.view());
      const absl::Status status = device.Synchronize();
      EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable) << status;
      EXPECT_THAT(std::string(status.message()), testing::HasSubstr("rank"));
      EXPECT_LE(absl::Now() - start, absl::Seconds(10));
    });
  }
}

TEST_P(CommunicatorTimeouts, AbortWakesAWaitingRank) {
  for (int size : {2, 3}) {
    GetParam().run(size, absl::Seconds(60), [](Communicator& comm, Device& device) {
      if (comm.rank() == 1) {
        absl::SleepFor(absl::Milliseconds(700));
        return;
      }
      const absl::Time start = absl::Now();
      std::thread watchdog([&comm] {
        absl::SleepFor(absl::Milliseconds(100));
        comm.Abort(absl::UnavailableError("rank 1 missed its heartbeat"));
      });
      TestTensor<float> data(&device, DType::kF32, {16});
      comm.AllReduce(data.view());
      const absl::Status status = device.Synchronize();
      watchdog.join();
      EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable) << status;
      EXPECT_THAT(std::string(status.message()), testing::HasSubstr("rank"));
      EXPECT_LE(absl::Now() - start, absl::Milliseconds(600));
      EXPECT_THAT(std::string(comm.Health().message()), testing::HasSubstr("rank"));
    });
  }
}

TEST_P(CommunicatorConformance, ImpossibleCountFailsTheGroup) {
  for (int size : {2, 3}) {
    GetParam().run(size, absl::Seconds(60), [size](Communicator& comm, Device& device) {
      TestTensor<float> in(&device, DType::kF32, {size * 2, 4});
      TestTensor<float> out(&device, DType::kF32, {size * 2, 4});
      std::vector<int32_t> counts(size, 1);
      if (comm.rank() == 1) counts[0] = 3;  // more than the two rows of a chunk
      TestTensor<int32_t> sent(&device, DType::kI32, {size}, counts);
      TestTensor<int32_t> received(&device, DType::kI32, {size});
      const AllToAllPart parts[] = {{in.view(), out.view()}};
      comm.AllToAllV(parts, sent.view(), received.view());
      comm.Barrier();
      EXPECT_FALSE(device.Synchronize().ok());
    });
  }
}

TEST_P(CommunicatorConformance, ImpossibleCountFailsTheGroupInSharedMemory) {
  for (int size : {2, 3}) {
    GetParam().run(size, absl::Seconds(60), [size](Communicator& comm, Device& device) {
      Targets targets(comm, device, true);
      TestTensor<float> in(&device, DType::kF32, {size * 2, 4});
      const auto out =
          targets.Make<float>(DType::kF32, {size * 2, 4}, std::vector<float>(size * 8));
      std::vector<int32_t> counts(size, 1);
      if (comm.rank() == 1) counts[0] = 3;
      TestTensor<int32_t> sent(&device, DType::kI32, {size}, counts);
      const auto received = targets.Make<int32_t>(DType::kI32, {size}, std::vector<int32_t>(size));
      const AllToAllPart parts[] = {{in.view(), out.view()}};
      comm.AllToAllV(parts, sent.view(), received.view());
      comm.Barrier();
      EXPECT_FALSE(device.Synchronize().ok());
    });
  }
}

}  // namespace tessera

#endif  // TESSERA_TESTS_PARALLEL_COMMUNICATOR_CONFORMANCE_H_
