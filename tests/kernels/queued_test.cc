#include <gtest/gtest-spi.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <numeric>
#include <vector>

#include "absl/synchronization/notification.h"
#include "kernels/ops.h"
#include "kernels/queued/queued_device.h"
#include "tests/kernels/op_test.h"

namespace tessera::test {
namespace {

class QueuedTest : public testing::Test {
 protected:
  Device& device() { return ops_->device(); }
  DeviceBuffer Allocate(size_t bytes) { return *device().Allocate(bytes, "a test"); }
  // The queue stands still until Release().
  void Hold() {
    device().host_queue()->Run([this] {
      released_.WaitForNotification();
      return absl::OkStatus();
    });
  }
  void Release() { released_.Notify(); }

  absl::Notification released_;
  std::unique_ptr<Ops> ops_ = *CreateOps({.backend = "queued", .num_threads = 1});
};

// What a GPU does, and what the tests of all operations thereby see on a machine without one.
TEST_F(QueuedTest, ActivationsHaveTheModelsType) {
  EXPECT_EQ(ops_->ActivationDType(DType::kF32), DType::kF32);
  EXPECT_EQ(ops_->ActivationDType(DType::kBF16), DType::kBF16);
}

using QueuedDeathTest = QueuedTest;

TEST_F(QueuedDeathTest, HostAccessCrashes) {
  testing::GTEST_FLAG(death_test_style) = "threadsafe";
  const DeviceBuffer buffer = Allocate(64);
  volatile int* address = static_cast<int*>(buffer.data());
  EXPECT_DEATH(*address = 1, "");
  EXPECT_DEATH([[maybe_unused]] const int value = *address, "");
}

TEST_F(QueuedDeathTest, AccessOutsideRunIsABug) {
  testing::GTEST_FLAG(death_test_style) = "threadsafe";
  const DeviceBuffer buffer = Allocate(64);
  HostQueue* const queue = device().host_queue();
  EXPECT_DEATH(queue->Access(buffer.data()), "CHECK failed");
  // Nor does it serve what runs on the queue's thread without being a transport.
  EXPECT_DEATH(
      {
        dynamic_cast<QueuedDevice&>(device()).Enqueue([&] {
          queue->Access(buffer.data());
          return absl::OkStatus();
        });
        (void)device().Synchronize();
      },
      "CHECK failed");
}

TEST_F(QueuedTest, CountsTransfers) {
  const auto& queued = dynamic_cast<const QueuedDevice&>(device());
  const DeviceBuffer buffer = Allocate(8);
  int64_t value = 3;
  device().Upload(buffer.data(), &value, sizeof(value));
  device().Upload(buffer.data(), &value, sizeof(value));
  device().Download(&value, buffer.data(), sizeof(value));
  ASSERT_TRUE(device().Synchronize().ok());
  EXPECT_EQ(queued.transfers().uploads, 2);
  EXPECT_EQ(queued.transfers().downloads, 1);
}

TEST_F(QueuedDeathTest, UseAfterFreeCrashes) {
  testing::GTEST_FLAG(death_test_style) = "threadsafe";
  EXPECT_DEATH(
      {
        void* freed = Allocate(64).data();
        int value = 0;
        device().Download(&value, freed, sizeof(value));
        (void)device().Synchronize();
      },
      "");
}

TEST_F(QueuedTest, ResultsArePoisonUntilSynchronized) {
  const DeviceBuffer buffer = Allocate(sizeof(int32_t));
  Hold();
  int32_t sent = 42;
  device().Upload(buffer.data(), &sent, sizeof(sent));
  sent = 0;  // It was copied.
  int32_t received = 7;
  device().Download(&received, buffer.data(), sizeof(received));
  const auto* bytes = reinterpret_cast<const unsigned char*>(&received);
  EXPECT_TRUE(std::all_of(bytes, bytes + sizeof(received),
                          [](unsigned char byte) { return byte == kQueuedPoison; }));
  Release();
  ASSERT_TRUE(device().Synchronize().ok());
  EXPECT_EQ(received, 42);
}

TEST_F(QueuedTest, ArgumentsAndWeightsMayGoBeforeTheWorkIsDone) {
  const std::vector<float> ones(4, 1.0F);
  const TestTensor x(device(), DType::kF32, {2, 2}, {1, 2, 3, 4});
  const TestTensor offsets = TestTensor::Ints(device(), {3}, {0, 1, 2});
  const TestTensor out(device(), DType::kF32, {2, 2});
  Hold();
  {
    const HostMatrix matrix{ones.data(), DType::kF32, 2, 2, 2};
    const WeightSource source{.parts = {matrix}, .pad_rows = 0, .dtype = DType::kF32};
    std::vector<std::unique_ptr<Weight>> weights;
    weights.push_back(*ops_->PrepareWeight(source));
    weights.push_back(*ops_->PrepareWeight(source));
    const std::unique_ptr<ExpertTable> experts = MakeExpertTable(*ops_, weights);
    ops_->GroupedGemm({.x = x, .offsets = offsets, .experts = experts.get(), .out = out});
  }
  Release();
  EXPECT_EQ(out.Floats(), (std::vector<float>{3, 3, 7, 7}));
}

TEST_F(QueuedTest, RunSeesDeviceMemoryInQueueOrder) {
  const DeviceBuffer buffer = Allocate(sizeof(int32_t));
  const int32_t sent = 20;
  device().Upload(buffer.data(), &sent, sizeof(sent));
  device().host_queue()->Run([&] {
    *static_cast<int32_t*>(device().host_queue()->Access(buffer.data())) += 3;
    return absl::OkStatus();
  });
  int32_t received = 0;
  device().Download(&received, buffer.data(), sizeof(received));
  ASSERT_TRUE(device().Synchronize().ok());
  EXPECT_EQ(received, 23);
}

TEST_F(QueuedTest, FailuresAreStickyAndStopTheQueue) {
  int runs = 0;
  device().host_queue()->Run([&] {
    ++runs;
    return absl::UnavailableError("peer is gone");
  });
  device().host_queue()->Run([&] {
    ++runs;
    return absl::InternalError("not reached");
  });
  EXPECT_EQ(device().Synchronize().code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(device().Synchronize().code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(runs, 1);
}

TEST_F(QueuedTest, MemoryIsZeroedAndFinite) {
  const DeviceBuffer buffer = Allocate(10000);
  std::vector<char> bytes(10000, 1);
  device().Download(bytes.data(), buffer.data(), bytes.size());
  ASSERT_TRUE(device().Synchronize().ok());
  EXPECT_EQ(std::count(bytes.begin(), bytes.end(), 0), 10000);
  EXPECT_EQ(device().Allocate(size_t{1} << 45, "too much").status().code(),
            absl::StatusCode::kResourceExhausted);
}

TEST_F(QueuedTest, DestructionFinishesTheWork) {
  bool done = false;
  device().host_queue()->Run([&] {
    done = true;
    return absl::OkStatus();
  });
  ops_.reset();
  EXPECT_TRUE(done);
}

TEST(CreateOpsTest, NamesWhatIsLinked) {
  EXPECT_GE(LinkedBackends().size(), 2U);
  const absl::Status status = CreateOps({.backend = "abacus", .num_threads = 1}).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_NE(std::string(status.message()).find("queued"), std::string::npos);
  EXPECT_EQ(CreateOps({.backend = "ref", .num_threads = 0}).status().code(),
            absl::StatusCode::kInvalidArgument);
  for (std::string_view name : LinkedBackends()) {
    EXPECT_EQ((*CreateOps({.backend = name, .num_threads = 1}))->name(), name);
  }
}

// The harness itself: an operation that writes where it must not is found.
TEST(OpTestTest, FindsWritesIntoGuardsAndGaps) {
  const std::unique_ptr<Ops> ops = *CreateOps({.backend = "ref", .num_threads = 1});
  for (const int64_t offset : {-4, 8, 16, 24, 32}) {
    TestTensor tensor(ops->device(), DType::kF32, {2, 2}, {1, 2, 3, 4}, /*row_gap=*/2);
    EXPECT_EQ(tensor.Floats(), (std::vector<float>{1, 2, 3, 4}));
    *reinterpret_cast<float*>(tensor.view().as<char>() + offset) = 5.0F;
    const auto failures = [&] {
      testing::TestPartResultArray results;
      testing::ScopedFakeTestPartResultReporter reporter(
          testing::ScopedFakeTestPartResultReporter::INTERCEPT_ONLY_CURRENT_THREAD, &results);
      tensor.Floats();
      return results.size();
    };
    // Bytes 16 to 24 are the second row; every other write is a stray.
    EXPECT_EQ(failures(), offset == 16 ? 0 : 1) << offset;
  }
}

}  // namespace
}  // namespace tessera::test
