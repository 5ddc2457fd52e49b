// One batch of sampling rows as host vectors, for any Ops and for SampleRow.
#ifndef TESSERA_TESTS_KERNELS_SAMPLE_CASE_H_
#define TESSERA_TESTS_KERNELS_SAMPLE_CASE_H_

#include <cstdint>
#include <functional>
#include <limits>
#include <utility>
#include <vector>

#include "kernels/ops.h"
#include "tests/kernels/op_test.h"

namespace tessera::test {

struct SampleRowCase {
  std::vector<float> logits;
  int32_t forced = -1;
  float temperature = 1.0F;
  int32_t top_k = 0;
  float top_p = 1.0F;
  float min_p = 0.0F;
  float repetition_penalty = 1.0F;
  float presence_penalty = 0.0F;
  float frequency_penalty = 0.0F;
  int64_t seed = 0;
  int32_t position = 0;
  // Token, occurrences in the output. Not empty: the row begins anew with this list.
  std::vector<std::pair<int32_t, int32_t>> penalties;
  // [V], what the row's slot holds before, -1: not listed; empty: the row has a slot only when it
  // has a list.
  std::vector<int32_t> counts;
  std::vector<std::pair<int32_t, float>> adjustments;
  std::vector<int32_t> mask;  // words of a bit mask; empty: every token is allowed
  float mask_penalty = std::numeric_limits<float>::infinity();
  int32_t num_logprobs = -1;
};

struct SampledRow {
  int32_t token = 0;
  float logprob = 0;  // NaN and rank -1 when not reported
  int32_t rank = 0;
  std::vector<int32_t> top_tokens;
  std::vector<float> top_logprobs;
  std::vector<int32_t> counts;  // [V], the row's slot afterwards, -1: not listed; empty without one
};

// Runs ops.Sample on all rows at once.
std::vector<SampledRow> Sample(Ops& ops, const std::vector<SampleRowCase>& rows);

// Seconds that sampling `row` takes. `seconds_per_call` measures a closure.
double SecondsToSample(Ops& ops, const SampleRowCase& row,
                       const std::function<double(const std::function<void()>&)>& seconds_per_call);

// Calls `sample` on all rows at once; the views are ordinary host memory.
std::vector<SampledRow> SampleOnHost(const std::vector<SampleRowCase>& rows,
                                     const std::function<void(const SampleArgs&)>& sample);

// The sampler of the CPU backend without a backend around it: SampleRow in place of Ops::Sample.
std::vector<SampledRow> SampleByRow(const std::vector<SampleRowCase>& rows);

}  // namespace tessera::test

#endif  // TESSERA_TESTS_KERNELS_SAMPLE_CASE_H_
