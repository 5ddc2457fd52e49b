#include "kernels/core/shared_buffers.h"

#include <atomic>
#include <cstring>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "gtest/gtest.h"

namespace tessera {
namespace {

using Buffer = std::shared_ptr<const DeviceBuffer>;

// A buffer that holds `value`.
auto Maker(char value, std::atomic<int>* made) {
  return [value, made](Device& device) -> absl::StatusOr<DeviceBuffer> {
    ++*made;
    auto buffer = device.Allocate(100, "a test");
    if (buffer.ok()) std::memset(buffer->data(), value, 100);
    return buffer;
  };
}

TEST(SharedBuffersTest, MakesABufferOnceWhileSomebodyHoldsIt) {
  const auto buffers = SharedBuffers::Create();
  std::atomic<int> made{0};
  Buffer first = *buffers->Get("a", Maker('1', &made));
  const Buffer second = *buffers->Get("a", Maker('2', &made));
  const Buffer other = *buffers->Get("b", Maker('3', &made));
  EXPECT_EQ(first->data(), second->data());
  EXPECT_NE(first->data(), other->data());
  EXPECT_EQ(made, 2);
  EXPECT_EQ(static_cast<const char*>(second->data())[99], '1');
}

TEST(SharedBuffersTest, MakesItAgainWhenNobodyHoldsIt) {
  const auto buffers = SharedBuffers::Create();
  std::atomic<int> made{0};
  buffers->Get("a", Maker('1', &made)).IgnoreError();
  const Buffer again = *buffers->Get("a", Maker('2', &made));
  EXPECT_EQ(made, 2);
  EXPECT_EQ(static_cast<const char*>(again->data())[0], '2');
}

TEST(SharedBuffersTest, BuffersOutliveTheOneWhoMadeThem) {
  std::atomic<int> made{0};
  auto buffers = SharedBuffers::Create();
  const Buffer buffer = *buffers->Get("a", Maker('7', &made));
  buffers.reset();
  EXPECT_EQ(static_cast<const char*>(buffer->data())[50], '7');
}

TEST(SharedBuffersTest, FailuresAreNotKept) {
  const auto buffers = SharedBuffers::Create();
  const auto fail = [](Device&) -> absl::StatusOr<DeviceBuffer> {
    return absl::ResourceExhaustedError("no memory");
  };
  EXPECT_EQ(buffers->Get("a", fail).status().code(), absl::StatusCode::kResourceExhausted);
  std::atomic<int> made{0};
  EXPECT_TRUE(buffers->Get("a", Maker('1', &made)).ok());
}

TEST(SharedBuffersTest, ThreadsThatAskTogetherGetOne) {
  const auto buffers = SharedBuffers::Create();
  std::atomic<int> made{0};
  std::vector<Buffer> got(8);
  std::vector<std::thread> threads;
  for (Buffer& mine : got) {
    threads.emplace_back([&] { mine = *buffers->Get("a", Maker('1', &made)); });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(made, 1);
  for (const Buffer& mine : got) EXPECT_EQ(mine->data(), got[0]->data());
}

}  // namespace
}  // namespace tessera
