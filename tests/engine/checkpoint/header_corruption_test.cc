// Random damage to a good file: it must load as before or be refused, whatever the damage.
#include <gtest/gtest.h>
#include <sys/resource.h>

#include <cstdint>
#include <optional>
#include <random>
#include <string>
#include <string_view>
#include <vector>

#include "engine/checkpoint/safetensors_header.h"
#include "engine/model/checkpoint_check.h"
#include "engine/model/model_config.h"
#include "kernels/core/text_file.h"
#include "tests/engine/checkpoint/model_folder.h"

namespace tessera {
namespace {

constexpr std::string_view kModel = TESSERA_TEST_DATA "/reference/models/moe-sparse-step-2";
constexpr int kRounds = 10000;
constexpr uint64_t kSeed = 90210;

struct File {
  std::string header;
  int64_t data_bytes;
};

File LoadGoodFile() {
  const std::string path =
      TESSERA_TEST_DATA "/reference/models/moe-sparse-step-2/model.safetensors";
  const std::string bytes = ReadTextFile(path, 1 << 24).value();
  uint64_t size = 0;
  for (int i = 7; i >= 0; --i) {
    size = size << 8 | static_cast<unsigned char>(bytes[static_cast<size_t>(i)]);
  }
  return {bytes.substr(8, size), static_cast<int64_t>(bytes.size() - 8 - size)};
}

using Random = std::mt19937_64;

size_t Pick(Random& random, size_t bound) { return bound == 0 ? 0 : random() % bound; }

// The text from one occurrence of `mark` to the next `end`.
std::optional<std::pair<size_t, size_t>> PickSpan(Random& random, const std::string& text,
                                                  const std::string& mark, char end) {
  const size_t begin = text.find(mark, Pick(random, text.size()));
  if (begin == std::string::npos) return std::nullopt;
  const size_t stop = text.find(end, begin + mark.size());
  if (stop == std::string::npos) return std::nullopt;
  return std::pair(begin, stop + 1 - begin);
}

void ReplaceNumber(Random& random, File& file) {
  const size_t begin = file.header.find_first_of("0123456789", Pick(random, file.header.size()));
  if (begin == std::string::npos) return;
  const size_t end = file.header.find_first_not_of("0123456789", begin);
  const std::vector<std::string> numbers = {"0",
                                            "1",
                                            "-1",
                                            "9007199254740992",
                                            "18446744073709551615",
                                            "1e9",
                                            "00",
                                            "4294967296",
                                            std::to_string(random() % 100000)};
  file.header.replace(begin, end - begin, numbers[Pick(random, numbers.size())]);
}

void Damage(Random& random, File& file) {
  std::string& text = file.header;
  switch (random() % 10) {
    case 0:  // one bit
      text[Pick(random, text.size())] ^= static_cast<char>(1U << (random() % 8));
      break;
    case 1:  // one byte
      text[Pick(random, text.size())] = static_cast<char>(random());
      break;
    case 2:  // cut the header
      text.resize(Pick(random, text.size()));
      break;
    case 3:  // cut or extend the data
      file.data_bytes =
          static_cast<int64_t>(Pick(random, 2 * static_cast<size_t>(file.data_bytes)));
      break;
    case 4:  // a tensor less: a hole
    case 5:  // a tensor twice
      if (const auto span = PickSpan(random, text, "\"model.", '}')) {
        const std::string entry = text.substr(span->first, span->second) + ",";
        if (random() % 2 == 0) {
          text.insert(span->first, entry);
        } else {
          text.erase(span->first, entry.size());
        }
      }
      break;
    case 6:
    case 7:
      ReplaceNumber(random, file);
      break;
    case 8:  // swapped dimensions, which only the configuration can notice
      if (const auto span = PickSpan(random, text, "\"shape\":[", ']')) {
        const size_t comma = text.find(',', span->first);
        const size_t open = span->first + 9;
        const size_t close = span->first + span->second - 1;
        if (comma < close) {
          text.replace(
              open, close - open,
              text.substr(comma + 1, close - comma - 1) + "," + text.substr(open, comma - open));
        }
      }
      break;
    default:  // garbage in the middle
      text.insert(Pick(random, text.size()),
                  std::string(1 + random() % 40, static_cast<char>(random())));
  }
}

bool SameTensors(const std::vector<SafetensorsEntry>& a, const std::vector<SafetensorsEntry>& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(), [](const auto& x, const auto& y) {
    // Another type of the same size is a legal file that no rule can tell from the intended one.
    return x.name == y.name && x.dtype.has_value() == y.dtype.has_value() && x.shape == y.shape &&
           x.num_bytes == y.num_bytes;
  });
}

// Everything a loader may rely on.
bool IsConsistent(const std::vector<SafetensorsEntry>& entries, const File& file) {
  int64_t next = 8 + static_cast<int64_t>(file.header.size());
  const int64_t file_size = next + file.data_bytes;
  for (const SafetensorsEntry& entry : entries) {
    if (entry.data_begin != next) return false;
    next += entry.num_bytes;
    int64_t elements = 1;
    for (const int64_t dim : entry.shape) elements *= dim;
    if (entry.dtype && elements * static_cast<int64_t>(SizeOf(*entry.dtype)) != entry.num_bytes) {
      return false;
    }
  }
  return next == file_size;
}

int64_t PeakMemoryKiB() {
  rusage usage{};
  EXPECT_EQ(getrusage(RUSAGE_SELF, &usage), 0);
  return usage.ru_maxrss;
}

TEST(HeaderCorruptionTest, LoadsIdenticallyOrIsRefused) {
  const File good = LoadGoodFile();
  const int64_t good_size = 8 + static_cast<int64_t>(good.header.size()) + good.data_bytes;
  const auto reference = ParseSafetensorsHeader(good.header, good_size);
  ASSERT_TRUE(reference.ok()) << reference.status();
  const ModelConfig config = LoadModelConfig(std::string(kModel)).value();
  const ModelFolder folder;
  const int64_t memory_before = PeakMemoryKiB();
  Random random(kSeed);
  int same = 0;
  int changed = 0;
  for (int round = 0; round < kRounds; ++round) {
    File file = good;
    const int damages = 1 + static_cast<int>(random() % 3);
    for (int i = 0; i < damages; ++i) Damage(random, file);
    const int64_t size = 8 + static_cast<int64_t>(file.header.size()) + file.data_bytes;
    const auto entries = ParseSafetensorsHeader(file.header, size);
    if (!entries.ok()) {
      const std::string message(entries.status().message());
      EXPECT_EQ(message.find('\n'), std::string::npos);
      EXPECT_LT(message.size(), 600U);
      continue;
    }
    ASSERT_TRUE(IsConsistent(*entries, file)) << "seed " << kSeed << " round " << round;
    if (SameTensors(*entries, *reference)) {
      ++same;
      continue;
    }
    // Damage can hit a name or a pair of dimensions without making the file malformed: that is
    // for VerifyCheckpoint to find.
    ++changed;
    folder.Write("model.safetensors",
                 SafetensorsBytes(file.header, static_cast<size_t>(file.data_bytes)));
    const auto checkpoint = Checkpoint::Open(folder.path());
    ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
    EXPECT_FALSE(VerifyCheckpoint(config, **checkpoint).ok())
        << "seed " << kSeed << " round " << round;
  }
  EXPECT_GT(changed, 100);
  EXPECT_LT(same + changed, kRounds / 2);
  // Room for the quarantine of AddressSanitizer; without it, it is a few MiB.
  EXPECT_LT(PeakMemoryKiB() - memory_before, 400 * 1024);
}

}  // namespace
}  // namespace tessera
