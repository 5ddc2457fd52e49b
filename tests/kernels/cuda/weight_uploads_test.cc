// Several threads write to a GPU through a few segments of pinned memory.
#include "kernels/cuda/weight_uploads.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <random>
#include <thread>
#include <vector>

#include "kernels/cuda/cuda_device.h"
#include "kernels/cuda/fake/emulated_gpus.h"

namespace tessera::cuda {
namespace {

class WeightUploadsTest : public testing::Test {
 protected:
  ~WeightUploadsTest() override { simt::fake::Reset(); }

  std::unique_ptr<CudaDevice> device_ = *CudaDevice::Create(0);
};

std::vector<char> RandomBytes(size_t count, uint32_t seed) {
  std::mt19937 random(seed);
  std::vector<char> bytes(count);
  for (char& byte : bytes) byte = static_cast<char>(random());
  return bytes;
}

// More threads than there are segments; sizes on both sides of a segment's.
TEST_F(WeightUploadsTest, EveryThreadsBytesArrive) {
  constexpr size_t kUnit = 24;
  constexpr int kThreads = WeightUploads::kNumSegments + 4;
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      const size_t units = t % 5 == 0 ? WeightUploads::kSegmentBytes / kUnit + t : 10 + t * 100;
      const std::vector<char> sent = RandomBytes(units * kUnit, t);
      const auto buffer = device_->AllocateUncleared(sent.size(), "a test");
      ASSERT_TRUE(buffer.ok()) << buffer.status();
      size_t expected_begin = 0;
      const absl::Status written = device_->WriteNow(
          buffer->data(), sent.size(), kUnit, [&](char* memory, size_t begin, size_t bytes) {
            EXPECT_EQ(begin, expected_begin);
            EXPECT_EQ(bytes % kUnit, 0);
            EXPECT_LE(bytes, WeightUploads::kSegmentBytes);
            expected_begin = begin + bytes;
            std::memcpy(memory, sent.data() + begin, bytes);
          });
      EXPECT_TRUE(written.ok()) << written;
      EXPECT_EQ(expected_begin, sent.size());
      // The memory of an emulated GPU is the host's: they are there already.
      EXPECT_EQ(std::memcmp(buffer->data(), sent.data(), sent.size()), 0) << t;
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(simt::fake::AnyReport(), "");
}

// While one thread fills its segment, another one's bytes travel.
TEST_F(WeightUploadsTest, AThreadThatReadsKeepsNobodyWaiting) {
  const auto slow = device_->AllocateUncleared(64, "a test");
  const auto quick = device_->AllocateUncleared(64, "a test");
  const absl::Status written =
      device_->WriteNow(slow->data(), 64, 64, [&](char* memory, size_t, size_t bytes) {
        std::thread other([&] {
          EXPECT_TRUE(device_
                          ->WriteNow(quick->data(), 64, 64,
                                     [](char* to, size_t, size_t n) { std::memset(to, 7, n); })
                          .ok());
        });
        other.join();  // or never
        std::memset(memory, 5, bytes);
      });
  EXPECT_TRUE(written.ok()) << written;
  EXPECT_EQ(static_cast<const char*>(slow->data())[63], 5);
  EXPECT_EQ(static_cast<const char*>(quick->data())[63], 7);
}

// Errors reach every thread, and no segment is lost by them.
TEST_F(WeightUploadsTest, FailuresEndEveryWrite) {
  const auto nowhere = device_->AllocateUncleared(64, "a test");
  char* const beyond = static_cast<char*>(nowhere->data()) + (size_t{1} << 40);
  for (size_t i = 0; i < 2 * WeightUploads::kNumSegments; ++i) {
    const absl::Status written = device_->WriteNow(
        beyond, 64, 64, [](char* memory, size_t, size_t bytes) { std::memset(memory, 1, bytes); });
    EXPECT_EQ(written.code(), absl::StatusCode::kInternal);
    EXPECT_NE(std::string(written.message()).find("writing weights"), std::string::npos) << written;
  }
}

}  // namespace
}  // namespace tessera::cuda
