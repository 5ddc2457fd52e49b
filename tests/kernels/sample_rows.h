// Random rows of sampling, and the comparison of what two samplers made of them.
#ifndef TESSERA_TESTS_KERNELS_SAMPLE_ROWS_H_
#define TESSERA_TESTS_KERNELS_SAMPLE_ROWS_H_

#include <vector>

#include "tests/kernels/op_test.h"
#include "tests/kernels/sample_case.h"

namespace tessera::test {

constexpr float kLogprobTolerance = 2e-5F;

// Everything but the logits as it is by default.
SampleRowCase Row(std::vector<float> logits);
// Any mixture of what a row may ask for. At least one token is possible.
SampleRowCase RandomRow(Random& random, int64_t vocab);
// Rows where rounding, ties or the edges of a parameter decide.
SampleRowCase EdgeRow(Random& random, int64_t vocab);

// Tokens, ranks, alternatives and counts are equal; logprobs within kLogprobTolerance.
void ExpectSame(const std::vector<SampledRow>& actual, const std::vector<SampledRow>& expected);

}  // namespace tessera::test

#endif  // TESSERA_TESTS_KERNELS_SAMPLE_ROWS_H_
