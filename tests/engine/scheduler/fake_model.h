// A model without arithmetic: the content of a KV slot is a hash of everything before it, so a
// token drawn from a wrong, stale or missing slot differs from the expected one.
#ifndef TESSERA_TESTS_ENGINE_SCHEDULER_FAKE_MODEL_H_
#define TESSERA_TESTS_ENGINE_SCHEDULER_FAKE_MODEL_H_

#include <cstdint>
#include <map>
#include <vector>

#include "engine/scheduler/step_plan.h"
#include "engine/types.h"

namespace tessera {

inline uint64_t Mix(uint64_t a, uint64_t b) {
  uint64_t z = a * 0x9E3779B97F4A7C15u + b + 0x632BE59BD9B4E019u;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
  return z ^ (z >> 31);
}

// What a drawn token depends on.
struct DrawInputs {
  uint64_t context = 0;  // hash chain over all tokens so far
  uint64_t seed = 0;
  int32_t position = 0;
  uint64_t penalties = 0;
  std::vector<int32_t> banned;
};

inline uint64_t ExtendContext(uint64_t context, int32_t token) {
  return Mix(context, static_cast<uint64_t>(token) + 1);
}
// -1 when every token is banned.
int32_t DrawToken(const DrawInputs& inputs, int32_t vocab_size);
uint64_t MixPenalty(uint64_t penalties, int32_t token, int32_t count);
float FakeLogprob(uint64_t context, int32_t token);

class FakeModel {
 public:
  FakeModel(int32_t num_blocks, int32_t block_size, int32_t vocab_size);

  // Runs one group's part of a step. Shape faults of the plan are reported in error().
  BatchResult Run(const BatchPlan& plan);
  const char* error() const { return error_; }  // nullptr: none so far
  // The next write of a slot is lost, for tests of the tests.
  void LoseNextWrite() { lose_next_write_ = true; }

 private:
  bool ShapesAgree(const BatchPlan& plan);
  void RunSequence(const BatchPlan& plan, int32_t s, std::vector<uint64_t>* contexts);
  // What a slot of the penalty table lists: occurrences in the output by token.
  using Counts = std::map<int32_t, int32_t>;
  Counts* SlotOf(const SamplingPlan& plan, int32_t row);
  void CopyBlocks(const BatchPlan& plan);
  void ListCandidates(const DrawInputs& inputs, int32_t count, BatchResult* result);
  void Sample(const BatchPlan& plan, int32_t row, uint64_t context, BatchResult* result);

  int32_t TokenAt(const BatchPlan& plan, int32_t t);

  const int32_t block_size_;
  const int32_t vocab_size_;
  std::vector<int32_t> drawn_;  // by the last step
  std::vector<uint64_t> slots_;
  std::map<int32_t, Counts> penalties_;  // by slot
  const char* error_ = nullptr;
  bool lose_next_write_ = false;
};

}  // namespace tessera

#endif  // TESSERA_TESTS_ENGINE_SCHEDULER_FAKE_MODEL_H_
