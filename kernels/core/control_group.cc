#include "kernels/core/control_group.h"

#include <sched.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"

namespace tessera {
namespace {

// Version 1 writes "no limit" as a number of about this size, which depends on the page size.
constexpr int64_t kUnlimited = int64_t{1} << 62;

std::optional<int64_t> ParseNumber(const std::string& word) {
  char* end = nullptr;
  const int64_t value = std::strtoll(word.c_str(), &end, 10);
  if (end == word.c_str()) return std::nullopt;  // "max"
  return value;
}

// The number after `key` in a file of "key value" lines; with an empty key the first word.
std::optional<int64_t> ReadNumber(const std::string& path, absl::string_view key = "") {
  std::ifstream file(path);
  std::string word;
  while (file >> word) {
    if (key.empty()) return ParseNumber(word);
    if (word == key) return file >> word ? ParseNumber(word) : std::nullopt;
  }
  return std::nullopt;
}

// Names of the files of one version.
struct MemoryFiles {
  std::vector<std::string> limits;
  std::string used;
  std::string reclaimable;  // in memory.stat, children included
};

const MemoryFiles& Version2() {
  static const MemoryFiles files{.limits = {"/memory.max", "/memory.high"},
                                 .used = "/memory.current",
                                 .reclaimable = "inactive_file"};
  return files;
}

const MemoryFiles& Version1() {
  static const MemoryFiles files{.limits = {"/memory.limit_in_bytes"},
                                 .used = "/memory.usage_in_bytes",
                                 .reclaimable = "total_inactive_file"};
  return files;
}

int64_t AvailableIn(const std::string& folder, const MemoryFiles& files) {
  int64_t limit = kNoLimit;
  for (const std::string& name : files.limits) {
    limit = std::min(limit, ReadNumber(folder + name).value_or(kNoLimit));
  }
  const std::optional<int64_t> used = ReadNumber(folder + files.used);
  if (limit >= kUnlimited || !used) return kNoLimit;
  const int64_t reclaimable = ReadNumber(folder + "/memory.stat", files.reclaimable).value_or(0);
  return std::max<int64_t>(0, limit - *used + std::min(reclaimable, *used));
}

int64_t CpusOf(std::optional<int64_t> quota, std::optional<int64_t> period) {
  if (!quota || *quota <= 0 || !period || *period <= 0) return kNoLimit;
  return (*quota + *period - 1) / *period;
}

int64_t CpusInVersion2(const std::string& folder) {
  std::ifstream file(folder + "/cpu.max");
  std::string quota;
  std::string period;
  if (!(file >> quota >> period)) return kNoLimit;
  return CpusOf(ParseNumber(quota), ParseNumber(period));
}

int64_t CpusInVersion1(const std::string& folder) {
  return CpusOf(ReadNumber(folder + "/cpu.cfs_quota_us"),
                ReadNumber(folder + "/cpu.cfs_period_us"));
}

// The path of the group that `controller` (of version 1) or version 2 (when empty) has put the
// process into.
std::string PathOf(const std::string& membership, absl::string_view controller) {
  std::ifstream file(membership);
  std::string line;
  while (std::getline(file, line)) {
    // hierarchy:controllers:path
    const std::vector<std::string> parts = absl::StrSplit(line, absl::MaxSplits(':', 2));
    if (parts.size() != 3) continue;
    const std::vector<std::string> controllers = absl::StrSplit(parts[1], ',');
    if (controller.empty()
            ? parts[1].empty()
            : std::find(controllers.begin(), controllers.end(), controller) != controllers.end()) {
      return parts[2];
    }
  }
  return "";
}

// `root` + `path` and all folders above it up to `root`. A container sees the path of its host but
// has its own group mounted at the root, so folders that are not there are passed over.
std::vector<std::string> FoldersUp(const std::string& root, std::string path) {
  std::vector<std::string> folders;
  while (!path.empty() && path != "/") {
    if (!absl::StrContains(path, "/..")) folders.push_back(root + path);
    path.resize(path.rfind('/') == std::string::npos ? 0 : path.rfind('/'));
  }
  folders.push_back(root);
  return folders;
}

template <typename Read>
int64_t LeastOf(const std::vector<std::string>& folders, const Read& read) {
  int64_t least = kNoLimit;
  for (const std::string& folder : folders) least = std::min(least, read(folder));
  return least;
}

int CpusByAffinity() {
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof(set), &set) == 0) return std::max(1, CPU_COUNT(&set));
  return static_cast<int>(std::max(1U, std::thread::hardware_concurrency()));
}

}  // namespace

int64_t ControlGroup::AvailableMemory() const {
  const auto version1 = [](const std::string& folder) { return AvailableIn(folder, Version1()); };
  const auto version2 = [](const std::string& folder) { return AvailableIn(folder, Version2()); };
  const std::string path2 = PathOf(membership_, "");
  return std::min({LeastOf(FoldersUp(mount_ + "/memory", PathOf(membership_, "memory")), version1),
                   LeastOf(FoldersUp(mount_, path2), version2),
                   LeastOf(FoldersUp(mount_ + "/unified", path2), version2)});
}

int64_t ControlGroup::Cpus() const {
  const std::string path1 = PathOf(membership_, "cpu");
  const std::string path2 = PathOf(membership_, "");
  int64_t least = std::min(LeastOf(FoldersUp(mount_, path2), CpusInVersion2),
                           LeastOf(FoldersUp(mount_ + "/unified", path2), CpusInVersion2));
  for (const char* name : {"/cpu", "/cpu,cpuacct", "/cpuacct,cpu"}) {
    least = std::min(least, LeastOf(FoldersUp(mount_ + name, path1), CpusInVersion1));
  }
  return least;
}

int UsableCpus() {
  static const int cpus =
      static_cast<int>(std::min<int64_t>(CpusByAffinity(), ControlGroup().Cpus()));
  return cpus;
}

}  // namespace tessera
