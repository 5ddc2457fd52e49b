#include "engine/executor/weight_digests.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <cstring>
#include <thread>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "kernels/core/control_group.h"
#include "kernels/core/status_macros.h"

namespace tessera {
namespace {

constexpr size_t kLanes = 4;  // independent, so that multiplications overlap
constexpr size_t kWord = sizeof(uint64_t);
constexpr size_t kBlock = kLanes * kWord;
constexpr size_t kDigits = 16;
// Odd, so that multiplying loses nothing; the bits of the golden ratio and of the roots of 2, 3, 5.
constexpr uint64_t kFactor = 0x9E3779B97F4A7C15;
constexpr std::array<uint64_t, kLanes> kStarts = {0x9E3779B97F4A7C15, 0x6A09E667F3BCC909,
                                                  0xBB67AE8584CAA73B, 0x3C6EF372FE94F82B};
constexpr int kTurn = 29;
constexpr int kMostThreads = 2;  // the others load at the same time

// For a given word a bijection of the state, for a given state one of the word.
uint64_t Mix(uint64_t state, uint64_t word) { return std::rotl((state ^ word) * kFactor, kTurn); }

void AddBlock(const std::byte* block, std::array<uint64_t, kLanes>* lanes) {
  std::array<uint64_t, kLanes> words;
  std::memcpy(words.data(), block, kBlock);
  for (size_t i = 0; i < kLanes; ++i) (*lanes)[i] = Mix((*lanes)[i], words[i]);
}

}  // namespace

uint64_t Digest(std::span<const std::byte> bytes) {
  std::array<uint64_t, kLanes> lanes = kStarts;
  size_t at = 0;
  for (; at + kBlock <= bytes.size(); at += kBlock) AddBlock(bytes.data() + at, &lanes);
  if (at < bytes.size()) {
    std::array<std::byte, kBlock> last = {};
    std::memcpy(last.data(), bytes.data() + at, bytes.size() - at);
    AddBlock(last.data(), &lanes);
  }
  uint64_t digest = bytes.size();
  for (const uint64_t lane : lanes) digest = Mix(digest, lane);
  return Mix(digest ^ (digest >> 32), digest);
}

absl::StatusOr<std::vector<uint64_t>> DigestTensors(const Checkpoint& checkpoint, int threads) {
  const std::vector<std::string_view>& names = checkpoint.names();
  std::vector<uint64_t> digests(names.size());
  std::vector<absl::Status> statuses(names.size());
  std::atomic<size_t> next{0};
  const auto work = [&] {
    for (size_t i = next.fetch_add(1); i < names.size(); i = next.fetch_add(1)) {
      const StoredTensor tensor = checkpoint.Find(names[i]);
      const absl::StatusOr<const std::byte*> data = tensor.Map();
      statuses[i] = data.status();
      if (!data.ok()) continue;
      digests[i] = Digest({*data, static_cast<size_t>(tensor.entry->num_bytes)});
      tensor.Release();
    }
  };
  std::vector<std::thread> workers;
  for (int i = 0; i < std::max(threads, 1); ++i) workers.emplace_back(work);
  for (std::thread& worker : workers) worker.join();
  for (const absl::Status& status : statuses) RETURN_IF_ERROR(status);
  return digests;
}

absl::Status CompareDigests(const Checkpoint& checkpoint, const std::vector<uint64_t>& own,
                            const std::vector<uint64_t>& others) {
  const std::vector<std::string_view>& names = checkpoint.names();
  if (own.size() != names.size() || others.size() != names.size()) {
    return absl::FailedPreconditionError("its weights have other tensors than the head's");
  }
  const auto [mine, theirs] = std::mismatch(own.begin(), own.end(), others.begin());
  if (mine == own.end()) return absl::OkStatus();
  const std::string_view name = names[static_cast<size_t>(mine - own.begin())];
  return absl::FailedPreconditionError(
      absl::StrCat("its weights are not the head's: \"", std::string(name),
                   "\" has other bytes; copy the model folder again"));
}

std::string EncodeDigests(const std::vector<uint64_t>& digests) {
  std::string text;
  text.reserve(digests.size() * kDigits);
  for (const uint64_t digest : digests) {
    absl::StrAppend(&text, absl::Hex(digest, absl::kZeroPad16));
  }
  return text;
}

WeightDigests BeginDigests(const std::string& model_dir) {
  return std::async(std::launch::async, [model_dir]() -> absl::StatusOr<std::vector<uint64_t>> {
    ASSIGN_OR_RETURN(const std::unique_ptr<Checkpoint> checkpoint, Checkpoint::Open(model_dir));
    return DigestTensors(*checkpoint, std::min(UsableCpus(), kMostThreads));
  });
}

absl::StatusOr<std::vector<uint64_t>> DecodeDigests(const std::string& text) {
  std::vector<uint64_t> digests;
  for (size_t at = 0; at < text.size(); at += kDigits) {
    uint64_t digest = 0;
    if (at + kDigits > text.size() || !absl::SimpleHexAtoi(text.substr(at, kDigits), &digest)) {
      return absl::InvalidArgumentError("the digests of the other node's weights are no numbers");
    }
    digests.push_back(digest);
  }
  return digests;
}

}  // namespace tessera
