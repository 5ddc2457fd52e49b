// The tensors that make up a matrix of a checkpoint, plain or quantised.
//
// W is [N out, K in], M its module's name, f = 32 / bits the codes of a 32-bit word, lowest bits
// first, G the number of groups of inputs. Scales are BF16, F16 or F32.
//   plain   M.weight BF16, F16 or F32 [N, K]
//   kFp8    M.weight F8_E4M3 [N, K]; M.weight_scale_inv (or M.weight_scale): one, [N, 1], or one
//           per block. W = e4m3 * scale, despite the name
//   kInt8   M.weight I8 [N, K]; M.weight_scale: one or [N, 1]
//   kPacked M.weight_packed I32 [N, ceil(K / f)], codes along K, stored plus 2^(bits - 1);
//           M.weight_scale [N, G]; M.weight_shape I64 [2]; zero points M.weight_zero_point I32
//           [ceil(N / f), G], packed along N in the same way; M.weight_g_idx I32 [K] where the
//           scheme says so
//   kGptq   M.qweight I32 [K / f, N], codes along K; M.qzeros I32 [G, N / f], along N; M.scales
//           [G, N]; M.g_idx I32 [K], optional; M.bias, optional, of zeros
//   kAwq    M.qweight I32 [K, N / 8], M.qzeros I32 [G, N / 8], M.scales [G, N]; nibble i of a word
//           is column [0, 2, 4, 6, 1, 3, 5, 7][i]
// W[n, k] = scale[group of k, n] * (code - zero).
#ifndef TESSERA_ENGINE_QUANTIZATION_STORED_MODULE_H_
#define TESSERA_ENGINE_QUANTIZATION_STORED_MODULE_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "engine/checkpoint/checkpoint.h"
#include "engine/quantization/module_rules.h"

namespace tessera {

struct StoredModule {
  std::string name;                          // "model.layers.0.mlp.down_proj"
  int64_t rows = 0;                          // N
  int64_t cols = 0;                          // K
  std::optional<QuantizationScheme> scheme;  // nullopt: plain
  StoredTensor codes;                        // or the plain weight
  StoredTensor scales;                       // those below are not in every format
  StoredTensor zeros;
  StoredTensor groups;
  StoredTensor shape;
  StoredTensor bias;  // that must be zero

  // Inputs that share a scale where no tensor says otherwise; all of them when there is one group.
  int64_t group_size() const { return scheme->group_size < 0 ? cols : scheme->group_size; }
  int64_t num_groups() const { return (cols + group_size() - 1) / group_size(); }
  int64_t codes_per_word() const { return 32 / scheme->bits; }
  // Drops the file pages of all of them.
  void Release() const;
};

struct ModuleFault {
  std::string path;    // of the file
  std::string tensor;  // its name
  std::string what;
};

struct WantedModule {
  std::string name;
  int64_t rows = 0;
  int64_t cols = 0;
  bool has_bias = false;       // of the model's own
  bool usually_plain = false;  // router, lm_head: plain needs no entry in a list
};

struct ModuleSearch {
  StoredModule module;               // usable without a fault
  std::vector<std::string> tensors;  // names of those that are part of it, or that it lacks
  std::optional<ModuleFault> fault;
};

// Decides by the tensors that are there and holds them against the rules. Looks at names, types and
// shapes only.
ModuleSearch FindModule(const Checkpoint& checkpoint, const ModuleRules& rules,
                        const WantedModule& wanted);

}  // namespace tessera

#endif  // TESSERA_ENGINE_QUANTIZATION_STORED_MODULE_H_
