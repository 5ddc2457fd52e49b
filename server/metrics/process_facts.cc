#include "server/metrics/process_facts.h"

#include <dirent.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cstdlib>
#include <fstream>
#include <memory>
#include <string>

namespace tessera {
namespace {

double OpenFiles() {
  const std::unique_ptr<DIR, int (*)(DIR*)> folder(opendir("/proc/self/fd"), &closedir);
  if (folder == nullptr) return 0;
  constexpr int kNotCounted = 3;  // ".", ".." and the folder itself
  int count = 0;
  while (readdir(folder.get()) != nullptr) ++count;  // NOLINT(concurrency-mt-unsafe): own stream
  return count > kNotCounted ? count - kNotCounted : 0;
}

// When the machine started.
double BootTime() {
  std::ifstream file("/proc/stat");
  std::string word;
  double seconds = 0;
  while (file >> word) {
    if (word == "btime" && file >> seconds) return seconds;
  }
  return 0;
}

// Fields of /proc/self/stat behind the command's name, which may have spaces: see proc(5), whose
// field 3 comes first.
void ReadStat(ProcessFacts* facts) {
  std::ifstream file("/proc/self/stat");
  std::string line;
  std::getline(file, line);
  const size_t name_end = line.rfind(')');
  if (name_end == std::string::npos) return;
  const auto ticks = static_cast<double>(sysconf(_SC_CLK_TCK));
  const auto page = static_cast<double>(sysconf(_SC_PAGESIZE));
  constexpr int kUserTime = 14;
  constexpr int kSystemTime = 15;
  constexpr int kThreads = 20;
  constexpr int kStart = 22;
  constexpr int kVirtual = 23;
  constexpr int kResident = 24;
  size_t at = name_end + 1;
  for (int field = 3; field <= kResident; ++field) {
    at = line.find_first_not_of(' ', at);
    if (at == std::string::npos) return;
    const size_t end = line.find(' ', at);
    const double value = field == 3 ? 0 : std::strtod(line.c_str() + at, nullptr);
    if (field == kUserTime || field == kSystemTime) facts->cpu_seconds += value / ticks;
    if (field == kThreads) facts->threads = value;
    if (field == kStart) facts->start_time = BootTime() + value / ticks;
    if (field == kVirtual) facts->virtual_bytes = value;
    if (field == kResident) facts->resident_bytes = value * page;
    at = end;
  }
}

}  // namespace

ProcessFacts ReadProcessFacts() {
  ProcessFacts facts;
  ReadStat(&facts);
  facts.open_files = OpenFiles();
  rlimit limit = {};
  if (getrlimit(RLIMIT_NOFILE, &limit) == 0) facts.max_files = static_cast<double>(limit.rlim_cur);
  return facts;
}

}  // namespace tessera
