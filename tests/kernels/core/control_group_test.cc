#include "kernels/core/control_group.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string>

namespace tessera {
namespace {

// A folder that looks like /sys/fs/cgroup and a file that looks like /proc/self/cgroup.
class ControlGroupTest : public testing::Test {
 protected:
  ControlGroupTest() {
    std::string name = testing::TempDir() + "/groupsXXXXXX";
    root_ = mkdtemp(name.data());
    Write("membership", "0::/\n");
  }
  ~ControlGroupTest() override { std::filesystem::remove_all(root_); }

  void Write(const std::string& path, const std::string& text) {
    const std::filesystem::path file = root_ + "/" + path;
    std::filesystem::create_directories(file.parent_path());
    std::ofstream(file) << text;
  }
  ControlGroup Group() const { return ControlGroup(root_ + "/membership", root_ + "/mount"); }

  std::string root_;
};

TEST_F(ControlGroupTest, WithoutGroupsThereAreNoLimits) {
  EXPECT_EQ(Group().AvailableMemory(), kNoLimit);
  EXPECT_EQ(Group().Cpus(), kNoLimit);
  const ControlGroup nowhere(root_ + "/no/such/file", root_ + "/no/such/folder");
  EXPECT_EQ(nowhere.AvailableMemory(), kNoLimit);
  EXPECT_EQ(nowhere.Cpus(), kNoLimit);
}

TEST_F(ControlGroupTest, Version2) {
  Write("mount/memory.max", "1000\n");
  Write("mount/memory.current", "400\n");
  Write("mount/memory.stat", "anon 5\ninactive_file 30\n");
  Write("mount/cpu.max", "250000 100000\n");
  EXPECT_EQ(Group().AvailableMemory(), 630);
  EXPECT_EQ(Group().Cpus(), 3);
  Write("mount/memory.high", "700\n");  // beyond it the process is slowed down
  EXPECT_EQ(Group().AvailableMemory(), 330);
  Write("mount/memory.current", "2000\n");
  EXPECT_EQ(Group().AvailableMemory(), 0);
  Write("mount/memory.max", "max\n");
  Write("mount/memory.high", "max\n");
  Write("mount/cpu.max", "max 100000\n");
  EXPECT_EQ(Group().AvailableMemory(), kNoLimit);
  EXPECT_EQ(Group().Cpus(), kNoLimit);
}

TEST_F(ControlGroupTest, Version1) {
  Write("membership", "7:memory:/\n3:cpu,cpuacct:/\n");
  Write("mount/memory/memory.limit_in_bytes", "1000\n");
  Write("mount/memory/memory.usage_in_bytes", "400\n");
  Write("mount/memory/memory.stat", "inactive_file 7\ntotal_inactive_file 50\n");
  Write("mount/cpu,cpuacct/cpu.cfs_quota_us", "50000\n");
  Write("mount/cpu,cpuacct/cpu.cfs_period_us", "100000\n");
  EXPECT_EQ(Group().AvailableMemory(), 650);
  EXPECT_EQ(Group().Cpus(), 1);
  Write("mount/memory/memory.limit_in_bytes", "9223372036854771712\n");
  Write("mount/cpu,cpuacct/cpu.cfs_quota_us", "-1\n");
  EXPECT_EQ(Group().AvailableMemory(), kNoLimit);
  EXPECT_EQ(Group().Cpus(), kNoLimit);
}

// systemd limits slices, Kubernetes limits pods: the group itself may have no limit.
TEST_F(ControlGroupTest, LimitsOfAncestorsCount) {
  Write("membership", "0::/pod/container\n");
  Write("mount/pod/container/memory.max", "max\n");
  Write("mount/pod/container/memory.current", "100\n");
  Write("mount/pod/container/cpu.max", "max 100000\n");
  Write("mount/pod/memory.max", "500\n");
  Write("mount/pod/memory.current", "450\n");
  Write("mount/pod/cpu.max", "400000 100000\n");
  EXPECT_EQ(Group().AvailableMemory(), 50);
  EXPECT_EQ(Group().Cpus(), 4);
}

// The path is the host's, but the container's own group is mounted at the root.
TEST_F(ControlGroupTest, PathsThatAreNotThere) {
  Write("membership", "9:cpu:/docker/0123\n8:memory:/docker/0123\n0::/../../elsewhere\n");
  Write("mount/memory/memory.limit_in_bytes", "1000\n");
  Write("mount/memory/memory.usage_in_bytes", "1\n");
  Write("mount/cpu/cpu.cfs_quota_us", "200000\n");
  Write("mount/cpu/cpu.cfs_period_us", "100000\n");
  EXPECT_EQ(Group().AvailableMemory(), 999);
  EXPECT_EQ(Group().Cpus(), 2);
}

TEST_F(ControlGroupTest, BothVersionsSideBySide) {
  Write("membership", "4:memory:/a\n0::/b\n");
  Write("mount/memory/a/memory.limit_in_bytes", "1000\n");
  Write("mount/memory/a/memory.usage_in_bytes", "100\n");
  Write("mount/unified/b/memory.max", "800\n");
  Write("mount/unified/b/memory.current", "100\n");
  EXPECT_EQ(Group().AvailableMemory(), 700);
}

TEST_F(ControlGroupTest, FilesOfNoUseAreNoLimits) {
  Write("mount/memory.max", "");
  Write("mount/memory.current", "x");
  Write("mount/cpu.max", "100000\n");
  EXPECT_EQ(Group().AvailableMemory(), kNoLimit);
  EXPECT_EQ(Group().Cpus(), kNoLimit);
  Write("mount/cpu.max", "100000 0\n");
  EXPECT_EQ(Group().Cpus(), kNoLimit);
}

TEST(UsableCpusTest, IsAtLeastOne) { EXPECT_GE(UsableCpus(), 1); }

}  // namespace
}  // namespace tessera
