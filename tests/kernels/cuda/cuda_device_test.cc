// The device contract on emulated GPUs: what holds for any device, and what this one promises
// besides.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <numeric>
#include <thread>
#include <vector>

#include "kernels/cuda/cuda_ops.h"
#include "kernels/cuda/fake/emulated_gpus.h"
#include "tests/kernels/op_test.h"

namespace tessera::test {
namespace {

std::unique_ptr<Ops> OnGpu(int index) {
  absl::StatusOr<std::unique_ptr<Ops>> ops = CreateEmulatedCudaOps({.device_index = index});
  TESSERA_CHECK(ops.ok());
  return *std::move(ops);
}

class CudaDeviceTest : public testing::Test {
 protected:
  Device& device() { return ops_->device(); }
  DeviceBuffer Allocate(size_t bytes) { return *device().Allocate(bytes, "a test"); }

  std::unique_ptr<Ops> ops_ = OnGpu(0);
};

std::vector<uint32_t> Numbers(size_t count) {
  std::vector<uint32_t> numbers(count);
  std::iota(numbers.begin(), numbers.end(), 1U);
  return numbers;
}

TEST_F(CudaDeviceTest, IsNamedAndPadsSteps) {
  EXPECT_EQ(ops_->name(), "cuda-emulated");
  EXPECT_TRUE(ops_->PadsSteps());
  EXPECT_EQ(ops_->ActivationDType(DType::kF32), DType::kF32);
  EXPECT_EQ(ops_->ActivationDType(DType::kBF16), DType::kBF16);
}

TEST_F(CudaDeviceTest, UploadsCopyAtOnceAndDownloadsArriveWithTheWait) {
  const DeviceBuffer buffer = Allocate(sizeof(int32_t));
  int32_t sent = 42;
  device().Upload(buffer.data(), &sent, sizeof(sent));
  sent = 0;
  int32_t received = 7;
  device().Download(&received, buffer.data(), sizeof(received));
  const uint64_t mark = device().Record();
  EXPECT_EQ(received, 7);
  ASSERT_TRUE(device().Wait(mark, absl::InfiniteDuration()).ok());
  EXPECT_EQ(received, 42);
}

// A wait takes what came before its mark and nothing else.
TEST_F(CudaDeviceTest, MarksCompleteInOrder) {
  const DeviceBuffer buffer = Allocate(sizeof(int32_t));
  std::vector<int32_t> received(6, -1);
  std::vector<uint64_t> marks;
  for (int32_t i = 0; i < 6; ++i) {
    device().Upload(buffer.data(), &i, sizeof(i));
    device().Download(&received[i], buffer.data(), sizeof(i));
    marks.push_back(device().Record());
  }
  ASSERT_TRUE(device().Wait(marks[2], absl::InfiniteDuration()).ok());
  EXPECT_EQ(received, (std::vector<int32_t>{0, 1, 2, -1, -1, -1}));
  ASSERT_TRUE(device().Wait(marks[1], absl::ZeroDuration()).ok());
  std::thread other([&] { EXPECT_TRUE(device().Wait(marks[5], absl::Seconds(60)).ok()); });
  other.join();
  EXPECT_EQ(received, (std::vector<int32_t>{0, 1, 2, 3, 4, 5}));
}

// More than the pinned ring holds, in one piece and in many.
TEST_F(CudaDeviceTest, LargeTransfersArriveWhole) {
  const std::vector<uint32_t> sent = Numbers(5'000'001);
  const size_t bytes = sent.size() * sizeof(uint32_t);
  const DeviceBuffer buffer = Allocate(bytes);
  std::vector<uint32_t> received(sent.size());
  device().Upload(buffer.data(), sent.data(), bytes);
  device().Download(received.data(), buffer.data(), bytes);
  ASSERT_TRUE(device().Synchronize().ok());
  EXPECT_TRUE(received == sent);
  constexpr size_t kPiece = 100'000;
  for (size_t begin = 0; begin < sent.size(); begin += kPiece) {
    const size_t size = std::min(kPiece, sent.size() - begin);
    std::vector<uint32_t> piece(sent.rbegin() + static_cast<int64_t>(begin),
                                sent.rbegin() + static_cast<int64_t>(begin + size));
    device().Upload(static_cast<uint32_t*>(buffer.data()) + begin, piece.data(),
                    size * sizeof(uint32_t));
  }
  device().Download(received.data(), buffer.data(), bytes);
  ASSERT_TRUE(device().Synchronize().ok());
  EXPECT_TRUE(std::equal(received.begin(), received.end(), sent.rbegin()));
}

TEST_F(CudaDeviceTest, MemoryIsZeroAndAligned) {
  for (const size_t bytes : {1, 100, 10000}) {
    const DeviceBuffer buffer = Allocate(bytes);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(buffer.data()) % 64, 0U);
    std::vector<char> received(bytes, 1);
    device().Download(received.data(), buffer.data(), bytes);
    ASSERT_TRUE(device().Synchronize().ok());
    EXPECT_EQ(std::count(received.begin(), received.end(), 0), static_cast<int64_t>(bytes));
  }
}

TEST_F(CudaDeviceTest, RefusalsSayWhatWasAskedAndWhatWouldFit) {
  const absl::Status status = device().Allocate(size_t{1} << 45, "the KV cache").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  const std::string message(status.message());
  for (const char* part : {"the KV cache", "35184372088832 bytes", "GPU 0", "bytes free", "fit"}) {
    EXPECT_NE(message.find(part), std::string::npos) << message;
  }
  // Nothing is broken by it.
  const DeviceBuffer buffer = Allocate(64);
  EXPECT_TRUE(device().Synchronize().ok());
}

TEST_F(CudaDeviceTest, ThereAreOnlySoManyGpus) {
  const absl::Status status = CreateEmulatedCudaOps({.device_index = 4711}).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_NE(std::string(status.message()).find("no GPU 4711"), std::string::npos) << status;
}

// Work of a buffer that goes away is done before.
TEST_F(CudaDeviceTest, BuffersAreFreedBehindQueuedWork) {
  const std::vector<uint32_t> sent = Numbers(1000);
  std::vector<uint32_t> received(sent.size());
  {
    const DeviceBuffer buffer = Allocate(sent.size() * sizeof(uint32_t));
    device().Upload(buffer.data(), sent.data(), buffer.bytes());
    device().Download(received.data(), buffer.data(), buffer.bytes());
  }
  ASSERT_TRUE(device().Synchronize().ok());
  EXPECT_EQ(received, sent);
}

// An operation that reads what was freed breaks the device; the reason names it, and stays.
TEST_F(CudaDeviceTest, FailuresAreStickyAndNameTheOperation) {
  DeviceBuffer out = Allocate(64);
  void* freed = Allocate(64).data();
  const TensorView x(freed, DType::kF32, {1, 16});
  DeviceBuffer rows = Allocate(sizeof(int32_t));
  ops_->GatherRows(
      {.x = x, .rows = rows.View(DType::kI32, {1}), .out = out.View(DType::kF32, {1, 16})});
  const absl::Status status = device().Synchronize();
  EXPECT_EQ(status.code(), absl::StatusCode::kInternal);
  EXPECT_NE(std::string(status.message()).find("GatherRows"), std::string::npos) << status;
  float received = 3;
  device().Download(&received, out.data(), sizeof(received));
  EXPECT_EQ(device().Synchronize(), status);
  EXPECT_EQ(received, 3);
  // So it is for everyone who comes later, until the process ends.
  EXPECT_FALSE(CreateEmulatedCudaOps({.device_index = 0}).ok());
  out = DeviceBuffer();
  rows = DeviceBuffer();
  ops_.reset();
  simt::fake::Reset();
}

TEST_F(CudaDeviceTest, GivesUpAtTheDeadline) {
  const DeviceBuffer buffer = Allocate(64);
  const uint64_t mark = device().Record();
  const absl::Status status = device().Wait(mark, -absl::Seconds(1));
  EXPECT_TRUE(status.ok() || absl::IsDeadlineExceeded(status)) << status;
  EXPECT_TRUE(device().Wait(mark, absl::InfiniteDuration()).ok());
}

// A rank per GPU, each on a thread of its own, all at once.
TEST(CudaDevicesTest, RanksUseTheirOwnGpus) {
  std::vector<std::thread> ranks;
  for (int rank = 0; rank < 4; ++rank) {
    ranks.emplace_back([rank] {
      const std::unique_ptr<Ops> ops = OnGpu(rank);
      Device& device = ops->device();
      for (int step = 0; step < 3; ++step) {
        const std::vector<float> values(24, static_cast<float>(rank + step));
        const TestTensor x(device, DType::kF32, {3, 8}, values);
        const TestTensor rows = TestTensor::Ints(device, {2}, {2, -1});
        const TestTensor out(device, DType::kF32, {2, 8});
        ops->GatherRows({.x = x, .rows = rows, .out = out});
        std::vector<float> expected(16);
        std::fill_n(expected.begin(), 8, values[0]);
        EXPECT_EQ(out.Floats(), expected);
      }
      EXPECT_GE(device.idle_time(), absl::ZeroDuration());
    });
  }
  for (std::thread& rank : ranks) rank.join();
}

// While the device is at work another thread prepares weights.
TEST_F(CudaDeviceTest, WeightsArePreparedBesideTheQueue) {
  const std::vector<float> values = Random(1).Normals(30 * 7);
  std::unique_ptr<Weight> weight;
  std::thread loader([&] {
    const HostMatrix matrix{values.data(), DType::kF32, 30, 7, 7};
    weight = *ops_->PrepareWeight(
        {.parts = {matrix}, .pad_rows = 2, .dtype = DType::kF32, .background = true});
  });
  const TestTensor scales(device(), DType::kF32, {7}, std::vector<float>(7, 1.0F));
  for (int i = 0; i < 5; ++i) {
    const TestTensor x(device(), DType::kF32, {4, 7}, Random(2).Normals(28));
    const TestTensor out(device(), DType::kF32, {4, 7});
    ops_->RmsNorm({.x = x, .weight = scales, .out = out});
    out.Floats();
  }
  loader.join();
  EXPECT_EQ(weight->rows(), 32);
  EXPECT_EQ(weight->cols(), 7);
  const TestTensor ids = TestTensor::Ints(device(), {3}, {29, 0, 31});
  const TestTensor out(device(), DType::kF32, {3, 7});
  ops_->Embed({.ids = ids, .table = weight.get(), .out = out});
  std::vector<float> expected(values.end() - 7, values.end());
  expected.insert(expected.end(), values.begin(), values.begin() + 7);
  expected.resize(21);
  EXPECT_EQ(out.Floats(), expected);
}

TEST_F(CudaDeviceTest, WeightsTooWideAreRefused) {
  const std::vector<float> row(1 << 20);
  const HostMatrix matrix{row.data(), DType::kF32, 1, 1 << 20, 1 << 20};
  EXPECT_EQ(ops_->PrepareWeight({.parts = {matrix}, .dtype = DType::kF32}).status().code(),
            absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace tessera::test
