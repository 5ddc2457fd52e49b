// What one rendering may cost. A template or its messages may be hostile: no input can make the
// interpreter hang, overflow the stack or fill the memory; it ends with RESOURCE_EXHAUSTED instead.
#ifndef TESSERA_ENGINE_TEXT_JINJA_BUDGET_H_
#define TESSERA_ENGINE_TEXT_JINJA_BUDGET_H_

#include <cstdint>

#include "absl/status/status.h"

namespace tessera::jinja {

struct Limits {
  int64_t max_steps = 5'000'000;           // evaluated nodes and touched elements
  int64_t max_bytes = int64_t{256} << 20;  // sum of all intermediate values
  int64_t max_output_bytes = int64_t{64} << 20;
  int max_depth = 250;  // nested evaluations (macro calls included)
};

// Deepest nesting of lists and dicts, in messages as well as made by a template.
inline constexpr int kMaxContainerDepth = 200;

// Rough memory of one list element or dict entry, in bytes.
inline constexpr int64_t kElementCost = 48;

class Budget {
 public:
  explicit Budget(const Limits& limits)
      : steps_left_(limits.max_steps),
        bytes_left_(limits.max_bytes),
        depth_left_(limits.max_depth) {}

  absl::Status Step(int64_t count = 1) {
    steps_left_ -= count;
    if (steps_left_ >= 0) return absl::OkStatus();
    return absl::ResourceExhaustedError("the template takes too many steps");
  }

  // Call before the memory is allocated.
  absl::Status Charge(int64_t bytes) {
    bytes_left_ -= bytes;
    if (bytes_left_ >= 0) return Step(bytes / 64);
    return absl::ResourceExhaustedError("the template uses too much memory");
  }

  absl::Status Enter() {
    if (--depth_left_ >= 0) return absl::OkStatus();
    return absl::ResourceExhaustedError("the template nests too deeply");
  }
  void Leave() { ++depth_left_; }

 private:
  int64_t steps_left_;
  int64_t bytes_left_;
  int depth_left_;
};

}  // namespace tessera::jinja

#endif  // TESSERA_ENGINE_TEXT_JINJA_BUDGET_H_
