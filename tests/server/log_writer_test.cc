#include "server/log_writer.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "absl/time/clock.h"
#include "kernels/core/monotonic_time.h"

namespace tessera {
namespace {

constexpr int kPipeBytes = 4096;

// A writer into a small pipe. Never destroyed, like all of them.
struct Pipe {
  Pipe() {
    EXPECT_EQ(pipe2(ends, O_CLOEXEC), 0);
    EXPECT_GE(fcntl(ends[1], F_SETPIPE_SZ, kPipeBytes), kPipeBytes);
    writer = new LogWriter(ends[1], [](int64_t lines) { return absl::StrCat(lines, " lost\n"); });
  }
  // Reads until `text` has come.
  std::string ReadUntil(const std::string& text) const {
    std::string all;
    while (all.find(text) == std::string::npos) all += Read();
    return all;
  }
  // What has come, at least a byte.
  std::string Read() const {
    std::vector<char> buffer(1 << 16);
    const ssize_t count = read(ends[0], buffer.data(), buffer.size());
    if (count <= 0) std::abort();
    return std::string(buffer.data(), static_cast<size_t>(count));
  }

  int ends[2] = {-1, -1};
  LogWriter* writer = nullptr;
};

// How many lines `text` says are lost.
int64_t Lost(const std::string& text) {
  int64_t lost = 0;
  for (const absl::string_view line : absl::StrSplit(text, '\n')) {
    int64_t lines = 0;
    const std::vector<absl::string_view> words = absl::StrSplit(line, ' ');
    if (words.size() == 2 && words[1] == "lost" && absl::SimpleAtoi(words[0], &lines))
      lost += lines;
  }
  return lost;
}

TEST(LogWriterTest, LinesOfAllThreadsComeWhole) {
  const Pipe pipe;
  std::vector<std::thread> threads;
  for (int t = 0; t < 8; ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < 50; ++i) pipe.writer->Add(absl::StrCat("line ", t, ".", i, "\n"));
    });
  }
  for (std::thread& thread : threads) thread.join();
  pipe.writer->Add("end\n");
  const std::string all = pipe.ReadUntil("end\n");
  for (int t = 0; t < 8; ++t) {
    size_t at = 0;
    for (int i = 0; i < 50; ++i) {  // in the order of their thread
      at = all.find(absl::StrCat("line ", t, ".", i, "\n"), at);
      ASSERT_NE(at, std::string::npos) << t << "." << i;
    }
  }
  EXPECT_EQ(pipe.writer->dropped(), 0);
}

TEST(LogWriterTest, AReaderWhoSleepsStopsNobody) {
  const Pipe pipe;
  const std::string line = std::string(999, 'x') + "\n";
  const absl::Time begun = MonotonicNow();
  constexpr int kLines = 2000;
  for (int i = 0; i < kLines; ++i) pipe.writer->Add(line);
  pipe.writer->Flush(absl::Milliseconds(50));
  EXPECT_LT(MonotonicNow() - begun, absl::Seconds(5));
  const int64_t dropped = pipe.writer->dropped();
  const int64_t kept = kLines - dropped;
  EXPECT_GT(dropped, 0);
  EXPECT_GE(kept, static_cast<int64_t>(LogWriter::kMaxQueuedBytes / line.size()));
  // Lines that found room after the first losses come after the word of these.
  std::string all;
  while (Lost(all) < dropped) all += pipe.Read();
  pipe.writer->Add("after\n");
  while (!absl::EndsWith(all, "after\n")) all += pipe.Read();
  EXPECT_EQ(Lost(all), dropped);
  const std::vector<std::string> lines = absl::StrSplit(all, '\n');
  EXPECT_EQ(std::count(lines.begin(), lines.end(), std::string(999, 'x')), kept);
  EXPECT_EQ(pipe.writer->dropped(), dropped);
}

TEST(LogWriterTest, AFileThatTakesNothingIsNoFailure) {
  const int full = open("/dev/full", O_WRONLY | O_CLOEXEC);
  ASSERT_GE(full, 0);
  auto* const writer =
      new LogWriter(full, [](int64_t lines) { return absl::StrCat(lines, " lost\n"); });
  for (int i = 0; i < 3; ++i) writer->Add("line\n");
  writer->Flush(absl::Seconds(10));
  EXPECT_EQ(writer->dropped(), 3);
}

}  // namespace
}  // namespace tessera
