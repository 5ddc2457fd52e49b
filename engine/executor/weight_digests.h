// Whether two model folders hold the same weights, to the last byte.
#ifndef TESSERA_ENGINE_EXECUTOR_WEIGHT_DIGESTS_H_
#define TESSERA_ENGINE_EXECUTOR_WEIGHT_DIGESTS_H_

#include <cstddef>
#include <cstdint>
#include <future>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/checkpoint/checkpoint.h"

namespace tessera {

// 64 bits that differ when two sequences of equal length differ in one place of up to eight bytes,
// and in all likelihood when they differ otherwise. Finds damaged and mixed-up files at the speed
// of the memory; it is no protection from somebody who makes files that collide.
uint64_t Digest(std::span<const std::byte> bytes);

// One digest per tensor, in the order of names(). Reads all of the checkpoint, by `threads`
// threads.
absl::StatusOr<std::vector<uint64_t>> DigestTensors(const Checkpoint& checkpoint, int threads);

// The same of a folder, beside whatever else loads it: an own view of the files.
using WeightDigests = std::future<absl::StatusOr<std::vector<uint64_t>>>;
WeightDigests BeginDigests(const std::string& model_dir);

// An error names the first tensor that differs.
absl::Status CompareDigests(const Checkpoint& checkpoint, const std::vector<uint64_t>& own,
                            const std::vector<uint64_t>& others);

// 16 hexadecimal digits each.
std::string EncodeDigests(const std::vector<uint64_t>& digests);
absl::StatusOr<std::vector<uint64_t>> DecodeDigests(const std::string& text);

}  // namespace tessera

#endif  // TESSERA_ENGINE_EXECUTOR_WEIGHT_DIGESTS_H_
