#include "kernels/core/host_device.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <vector>

namespace tessera {
namespace {

TEST(HostDeviceTest, AllocatesZeroedAndAligned) {
  HostDevice device;
  for (size_t bytes : {size_t{0}, size_t{1}, size_t{100}, size_t{4} << 20, (size_t{9} << 20) + 3}) {
    absl::StatusOr<DeviceBuffer> buffer = device.Allocate(bytes, "a test");
    ASSERT_TRUE(buffer.ok()) << buffer.status().message();
    EXPECT_EQ(reinterpret_cast<uintptr_t>(buffer->data()) % 64, 0U);
    const char* data = static_cast<const char*>(buffer->data());
    EXPECT_TRUE(std::all_of(data, data + bytes, [](char c) { return c == 0; }));
    std::memset(buffer->data(), 1, bytes);
  }
}

TEST(HostDeviceTest, RefusesWhatDoesNotFitAndNamesIt) {
  HostDevice device(int64_t{8} << 20);
  absl::StatusOr<DeviceBuffer> first = device.Allocate(size_t{5} << 20, "the first");
  ASSERT_TRUE(first.ok());
  const absl::StatusOr<DeviceBuffer> second = device.Allocate(size_t{5} << 20, "the KV cache");
  EXPECT_EQ(second.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_NE(std::string(second.status().message()).find("the KV cache"), std::string::npos);
  *first = DeviceBuffer();
  EXPECT_TRUE(device.Allocate(size_t{5} << 20, "the KV cache").ok());
  for (size_t bytes : {size_t{1} << 50, ~size_t{0}}) {
    EXPECT_EQ(HostDevice().Allocate(bytes, "too much").status().code(),
              absl::StatusCode::kResourceExhausted);
  }
}

TEST(HostDeviceTest, KnowsHowMuchMemoryThereIs) {
  EXPECT_GT(AvailableHostMemory(), int64_t{16} << 20);
}

TEST(HostDeviceTest, FailuresAreSticky) {
  HostDevice device;
  int runs = 0;
  device.host_queue()->Run([&] {
    ++runs;
    return absl::OkStatus();
  });
  EXPECT_TRUE(device.Synchronize().ok());
  device.host_queue()->Run([] { return absl::UnavailableError("peer is gone"); });
  device.host_queue()->Run([&] {
    ++runs;
    return absl::OkStatus();
  });
  EXPECT_EQ(runs, 1);
  EXPECT_EQ(device.Synchronize().code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(device.Synchronize().code(), absl::StatusCode::kUnavailable);
}

}  // namespace
}  // namespace tessera
