// Golden data of tests/data/reference and of the nano model, as plain values. They lie in the
// source tree, or where the environment says: TESSERA_TEST_DATA and TESSERA_NANO_MODEL are folders
// like tests/data and deploy/models/nano (tests/gpu/bundle.sh).
#ifndef TESSERA_TESTS_SUPPORT_GOLDEN_FILES_H_
#define TESSERA_TESTS_SUPPORT_GOLDEN_FILES_H_

#include <cstdint>
#include <string>
#include <vector>

namespace tessera {

// One prompt of tests/data/reference/models/NAME/golden.json.
struct ModelGolden {
  std::vector<int32_t> ids;
  std::vector<float> last_logits;
  std::vector<int32_t> argmax;  // at every prompt position
  double nll = 0;
  std::vector<int32_t> greedy;  // 32 tokens
};

// Names of the tiny checkpoints, sorted.
std::vector<std::string> ReferenceModels();
std::string ReferenceModelDir(const std::string& name);
std::vector<ModelGolden> LoadModelGoldens(const std::string& name);

// The same of tests/data/reference/quantised: checkpoints with quantised weights, and what exactly
// dequantised ones compute.
std::vector<std::string> QuantizedModels();
std::string QuantizedModelDir(const std::string& name);
std::vector<ModelGolden> LoadQuantizedGoldens(const std::string& name);

// One line of the nano model's golden.jsonl.
struct NanoGolden {
  std::vector<int32_t> prompt_ids;
  std::vector<int32_t> greedy;  // up to 96 tokens, ends with <|im_end|> when the answer is complete
};

std::string NanoModelDir();
std::vector<NanoGolden> LoadNanoGoldens();

}  // namespace tessera

#endif  // TESSERA_TESTS_SUPPORT_GOLDEN_FILES_H_
